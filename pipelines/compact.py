"""Make few large files of the many small ones of a night, ordered by user; rows and nights stay as they are.

    files of a night, by their first user ─▶ row group after row group ─▶ as few files as hold them ─▶ one commit

Tables that sources are ingested into are left alone: what came since a night is told by their files.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Final

import pyarrow as pa

from pipelines.nights.runs import Excludes, RunRecord, recorded_run, utc_now
from pipelines.tables import Row
from pipelines.tables.data_files import DataFile
from pipelines.tables.parquet import write_packed
from pipelines.tables.retention import READER_SECONDS, vacuum
from pipelines.tables.schema import file_schema
from pipelines.tables.warehouse import Staged, Warehouse

JOB: Final = "compact"
COMPACTED: Final = ("history_vectors", "persona_vectors", "outputs", "rejects", "evaluations", "runs")
FILE_BYTES: Final = 128 * 2**20  # of a file, about
LARGE_BYTES: Final = 4 * 2**20
"""Of a file that is left as it is: to write all vectors of a full night once more costs half as much as the night."""
PAYS_FROM: Final = 64
"""Files that a compaction must save for `nightly` to begin one: a reader opens every file of a table."""


def compact_tables(warehouse: Warehouse, *, dry_run: bool = False, reader_seconds: float = READER_SECONDS) -> list[Row]:
    """Rewrite the nights that have more files than they need; queries get `reader_seconds` before the old files go."""
    if dry_run:
        return _told(_scattered(warehouse))
    return run_compaction(warehouse, reader_seconds)[1]


def run_compaction(warehouse: Warehouse, reader_seconds: float = READER_SECONDS) -> tuple[RunRecord, list[Row]]:
    """Rewrite the nights that have more files than they need, and record it."""
    with recorded_run(warehouse, JOB, utc_now().date(), {}, Excludes.ALL) as record:
        found = _scattered(warehouse)
        for name in dict.fromkeys(name for name, _ in found):
            version = warehouse.version(name)
            nights = {ds: files for (table, ds), files in found.items() if table == name}
            if version is not None:
                _rewrite(warehouse, name, record.run_id, nights, version)
        vacuum(warehouse, dict.fromkeys(name for name, _ in found), reader_seconds)
        record.rows_in = record.rows_out = sum(file.rows for files in found.values() for file in files)
    return record, _told(found)


def compaction_pays(warehouse: Warehouse) -> bool:
    """Whether so many files would be saved that `nightly` should begin a compaction."""
    told = _told(_scattered(warehouse))
    return sum(night["file_count"] - night["new_file_count"] for night in told) >= PAYS_FROM


def _scattered(warehouse: Warehouse) -> dict[tuple[str, date], list[DataFile]]:
    """The small files of each night that has more of them than it needs."""
    nights = defaultdict[tuple[str, date], list[DataFile]](list)
    for name in COMPACTED:
        for file in warehouse.live(name):
            if file.size < LARGE_BYTES:
                nights[name, file.ds].append(file)
    return {night: sorted(files) for night, files in nights.items() if len(files) > _needed(files)}


def _needed(files: Sequence[DataFile]) -> int:
    return max(1, math.ceil(sum(file.size for file in files) / FILE_BYTES))


def _rewrite(
    warehouse: Warehouse, name: str, run_id: str, nights: Mapping[date, Sequence[DataFile]], version: int
) -> None:
    with warehouse.staging(f"{run_id}-{name}") as folder:
        added = [
            Staged(ds, path, max(file.born for file in files))
            for ds, files in nights.items()
            for path in write_packed(folder / f"{ds}", file_schema(name), _rows(warehouse, name, files), FILE_BYTES)
        ]
        warehouse.swap(name, run_id, [file for files in nights.values() for file in files], added, version)


def _rows(warehouse: Warehouse, name: str, files: Sequence[DataFile]) -> Iterator[pa.Table]:
    """The rows of files, by their first user; the files of a job hold a range of users each."""
    has_users = "user_id" in file_schema(name).names

    def first(file: DataFile) -> tuple[str, str]:
        head = warehouse.dataset(name, [file]).head(1, columns=["user_id"]) if has_users else None
        return (head["user_id"][0].as_py() if head else "") or "", file.name

    for file in sorted(files, key=first):
        yield warehouse.dataset(name, [file]).to_table(columns=file_schema(name).names)


def _told(scattered: Mapping[tuple[str, date], Sequence[DataFile]]) -> list[Row]:
    """Files and bytes of each night before, and the files that it needs."""
    return [
        {
            "table": name,
            "ds": ds,
            "file_count": len(files),
            "new_file_count": _needed(files),
            "byte_count": sum(file.size for file in files),
        }
        for (name, ds), files in scattered.items()
    ]
