"""Drop old nights of what the jobs can make again or nobody asks for: personas, answers, refused rows.

    nights of persona_vectors and outputs ─▶ the newest N stay ─▶ older ones out of the tables ─▶ their files deleted

Histories, tasks, evaluations, runs and the vectors of items, which every later night takes over, are never touched.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import date
from typing import Final

from pipelines.nights.runs import Excludes, recorded_run, utc_now
from pipelines.tables.retention import READER_SECONDS, vacuum
from pipelines.tables.warehouse import Warehouse

JOB: Final = "expire"
EXPIRING: Final = ("persona_vectors", "outputs", "rejects")


@dataclass(frozen=True)
class Expired:
    """One night of a table that is dropped."""

    table: str
    ds: date
    row_count: int
    byte_count: int


def expire_nights(
    warehouse: Warehouse, keep: int, *, dry_run: bool = False, reader_seconds: float = READER_SECONDS
) -> list[Expired]:
    """Drop the nights before the newest `keep`.

    A night is one that has personas or answers. The personas that `generate` takes for the oldest night kept stay,
    even if they were made earlier.

    Args:
        warehouse: read and written.
        keep: nights to keep, 1 or more.
        dry_run: only tell what would be dropped.
        reader_seconds: time that queries get before the files they may read are deleted.

    Raises:
        PplugError: if a job is running.
    """
    if dry_run:
        return _expired(warehouse, keep)
    with recorded_run(warehouse, JOB, utc_now().date(), {"keep": keep}, Excludes.ALL) as record:
        found = _expired(warehouse, keep)
        for name in EXPIRING:
            nights = {night.ds for night in found if night.table == name}
            version = warehouse.version(name)
            if version is not None and nights:
                old = [file for file in warehouse.live(name, version) if file.ds in nights]
                warehouse.swap(name, record.run_id, old, [], version)
        vacuum(warehouse, EXPIRING, reader_seconds)
        record.rows_in = record.rows_out = sum(night.row_count for night in found)
    return found


def first_kept(personas: set[date], answers: set[date], keep: int) -> tuple[date, date]:
    """The first night that stays of `persona_vectors`, and of the other tables; `date.min` where all stay."""
    nights = sorted(personas | answers)
    if len(nights) <= keep:
        return date.min, date.min
    first = nights[-keep]
    return max((night for night in personas if night <= first), default=first), first


def _expired(warehouse: Warehouse, keep: int) -> list[Expired]:
    files = {name: warehouse.live(name) for name in EXPIRING}
    nights = {name: {file.ds for file in there} for name, there in files.items()}
    first_persona, first = first_kept(nights["persona_vectors"], nights["outputs"], keep)
    found: list[Expired] = []
    for name, there in files.items():
        limit = first_persona if name == "persona_vectors" else first
        rows, sizes = Counter[date](), Counter[date]()
        for file in there:
            if file.ds < limit:
                rows[file.ds] += file.rows
                sizes[file.ds] += file.size
        found += [Expired(name, night, rows[night], sizes[night]) for night in sorted(rows)]
    return found
