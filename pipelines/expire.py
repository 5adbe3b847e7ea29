"""Drop old nights of what the jobs can make again or nobody asks for: personas, answers, refused rows.

    nights of personas and of answers ─▶ the newest N stay ─▶ older rows out of the tables ─▶ their files deleted

Of `persona_vectors` a row goes when the oldest night kept has a newer one of its user, or stands on a full night after
it: the others are part of personas still. Vectors of items, which personas are made of, stay, unless they are from
before a full night with a protection that they do not have. Histories, tasks, evaluations and runs are never touched.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.nights.runs import Excludes, recorded_run, utc_now
from pipelines.personas.nights import encoded_nights, nights_until
from pipelines.tables.data_files import DataFile
from pipelines.tables.parquet import write_shard
from pipelines.tables.retention import READER_SECONDS, vacuum
from pipelines.tables.schema import file_schema
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Staged, Warehouse

JOB: Final = "expire"
EXPIRING: Final = ("persona_vectors", "outputs", "rejects", "history_vectors")


@dataclass(frozen=True)
class Dropped:
    """What of a live file goes."""

    file: DataFile
    users: Sequence[str] | None = None  # whose rows; None: all

    @property
    def row_count(self) -> int:
        return self.file.rows if self.users is None else len(self.users)

    @property
    def byte_count(self) -> int:
        """How many bytes, about."""
        return self.file.size * self.row_count // max(1, self.file.rows)


def expire_nights(
    warehouse: Warehouse, keep: int, *, dry_run: bool = False, reader_seconds: float = READER_SECONDS
) -> list[dict[str, Any]]:
    """Drop the nights before the newest `keep`, 1 or more; queries get `reader_seconds` before the old files go.

    A night is one that has personas or answers. The personas that `generate` takes for the oldest night kept stay,
    even if they were made earlier. With `dry_run` it is only told what would be dropped.

    Raises:
        PplugError: if a job is running.
    """
    if dry_run:
        return _told(_dropped(warehouse, keep))
    with recorded_run(warehouse, JOB, utc_now().date(), {"keep": keep}, Excludes.ALL) as record:
        dropped = _dropped(warehouse, keep)
        for name, there in dropped.items():
            version = warehouse.version(name)
            if version is not None and there:
                with warehouse.staging(f"{record.run_id}-{name}") as folder:
                    rest = [staged for drop in there for staged in _rest(warehouse, drop, folder)]
                    warehouse.swap(name, record.run_id, [drop.file for drop in there], rest, version)
        vacuum(warehouse, EXPIRING, reader_seconds)
        found = _told(dropped)
        record.rows_in = record.rows_out = sum(night["row_count"] for night in found)
    return found


def first_kept(personas: set[date], answers: set[date], keep: int) -> tuple[date, date]:
    """The first night that stays of personas, and of the other tables; `date.min` where all stay."""
    nights = sorted(personas | answers)
    if len(nights) <= keep:
        return date.min, date.min
    first = nights[-keep]
    return max((night for night in personas if night <= first), default=first), first


def _dropped(warehouse: Warehouse, keep: int) -> dict[str, list[Dropped]]:
    files = {name: warehouse.live(name) for name in EXPIRING}
    nights = encoded_nights(warehouse)
    encoded = {night.ds for night in nights} | {file.ds for file in files["persona_vectors"]}
    first_persona, first = first_kept(encoded, {file.ds for file in files["outputs"]}, keep)
    found = nights_until([night for night in nights if night.ds <= first_persona])
    full = found.nights[0] if found else None
    whole = {name: first for name in ("outputs", "rejects")} | {
        "persona_vectors": full.ds if full else date.min,
        "history_vectors": full.ds if full and full.is_protected else date.min,
    }
    dropped = {name: [Dropped(file) for file in files[name] if file.ds < whole[name]] for name in EXPIRING}
    bases = [file for file in files["persona_vectors"] if file.ds >= whole["persona_vectors"]]
    return dropped | {"persona_vectors": dropped["persona_vectors"] + _replaced(warehouse, bases, first_persona)}


def _replaced(warehouse: Warehouse, files: Sequence[DataFile], first: date) -> list[Dropped]:
    """The rows of users who have a newer one up to the first night that stays."""
    until = [file for file in files if file.ds <= first]
    by_night = defaultdict[date, set[str]](set)
    with connect(warehouse, files={"persona_vectors": until}) as db:
        for row in run_sql(db, "jobs/replaced_personas", {"ds": first}).to_pylist():
            by_night[row["ds"]].add(row["user_id"])
    dropped = list[Dropped]()
    for file in until:
        if gone := by_night[file.ds]:
            there = warehouse.dataset("persona_vectors", [file]).to_table(columns=["user_id"])["user_id"].to_pylist()
            users = [user for user in there if user in gone]
            dropped += [Dropped(file, None if len(users) == file.rows else users)] if users else []
    return dropped


def _rest(warehouse: Warehouse, drop: Dropped, folder: Path) -> list[Staged]:
    """What stays of a file."""
    if drop.users is None:
        return []
    name, _, file = drop.file.name.partition("/")
    gone = pc.field("user_id").isin(pa.array(drop.users, pa.string()))
    rows = warehouse.dataset(name, [drop.file]).to_table(columns=file_schema(name).names, filter=~gone)
    path = folder / file.replace("/", "_")
    write_shard(path, rows.cast(file_schema(name)))
    return [Staged(drop.file.ds, path, drop.file.born)]


def _told(dropped: Mapping[str, Sequence[Dropped]]) -> list[dict[str, Any]]:
    """What of each night of a table goes; of a part of a file its share of bytes by rows."""
    found = list[dict[str, Any]]()
    for name, there in dropped.items():
        for ds in sorted({drop.file.ds for drop in there}):
            own = [drop for drop in there if drop.file.ds == ds]
            counts = {name: sum(getattr(drop, name) for drop in own) for name in ("row_count", "byte_count")}
            found.append({"table": name, "ds": ds, **counts})
    return found
