"""The files of a table as Delta's log names them, and what the log counts."""

import json
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

SWAP = "swap"  # what counts the commits that take single files out of a table


@dataclass(frozen=True, order=True)
class DataFile:
    """A Parquet file of a table; files are in the order of their names."""

    name: str  # in the store: `<table>/ds=<night>/<file>`
    ds: date
    size: int  # bytes
    rows: int

    def add_action(self) -> AddAction:
        """Describe the file for Delta's log.

        Never a range of values: the least and the greatest `user_id` would stay in the log when the users are
        forgotten. Readers skip by the statistics inside the Parquet files, which go when the files go.
        """
        facts = json.dumps({"numRecords": self.rows})
        return AddAction(self._in_table, self.size, {"ds": self.ds.isoformat()}, _milliseconds(), True, facts)

    def remove_action(self) -> RemoveAction:
        return RemoveAction(self._in_table, True, _milliseconds(), self.size, {"ds": self.ds.isoformat()})

    @property
    def born(self) -> int:
        """The table's version that brought the file's newest row, for tables that are filled by upsert; else 0."""
        found = _BORN.fullmatch(self.name.rpartition("/")[2].partition("-")[0])
        return int(found[1]) if found else 0

    @property
    def _in_table(self) -> str:
        return self.name.partition("/")[2]


def _milliseconds() -> int:
    return time.time_ns() // 10**6


Counts = Mapping[str, int]
"""What a table counts, by the name of the night (`ds=...`) or `swap`; what never happened is 0."""


def live_files(name: str, table: DeltaTable) -> list[DataFile]:
    """The live files of an open table. `file_uris` would return names that are percent-encoded."""
    columns = ["path", "partition.ds", "size_bytes", "num_records"]
    actions = pa.table(table.get_add_actions(flatten=True)).select(columns).to_pydict()
    rows = zip(*(actions[column] for column in columns), strict=True)
    return sorted(DataFile(f"{name}/{path}", ds, size, count) for path, ds, size, count in rows)


def counts_of(table: DeltaTable, ds: date) -> dict[str, int]:
    """What an open table counts of a night."""
    return {name: table.transaction_version(name) or 0 for name in (f"ds={ds.isoformat()}", SWAP)}


def new_name(name: str, ds: date, run_id: str, born: int = 0) -> str:
    """Name a file that a run adds to a night of a table, with the version that brings its newest row, if it counts."""
    prefix = f"v{born:08d}-" if born else ""
    return f"{name}/ds={ds.isoformat()}/{prefix}{run_id}-{uuid.uuid4().hex[:12]}.parquet"


def is_of_run(name: str, run_id: str) -> bool:
    """Whether a run named a file so by `new_name`."""
    file = name.rpartition("/")[2]
    prefix, _, rest = file.partition("-")
    return (rest if _BORN.fullmatch(prefix) else file).startswith(run_id)


_BORN = re.compile(r"v(\d{8,})")
