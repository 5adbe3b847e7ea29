"""Rows of one source that wait on disk until all of it is read, so that memory stays bounded.

row ─▶ take ─▶ <table>.parquet
         └───▶ rejects.parquet
"""

import contextlib
from collections.abc import Container, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.intake.rows import Refusal, Row, named_user
from pipelines.tables.schema import file_schema

BATCH_ROWS: Final = 5_000
BATCH_CHARACTERS: Final = 16 * 2**20


class StagedRows:
    """Rows of a table that wait in a Parquet file."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.count = path, 0
        self._rows: list[Row] = []
        self._characters = 0
        self._file = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: Row) -> None:
        """Add a row; every few thousand go to disk."""
        self.count += 1
        self._rows.append(row)
        self._characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(self._rows) == BATCH_ROWS or self._characters > BATCH_CHARACTERS:
            self._flush()

    def close(self) -> None:
        """Finish the file; closing twice does nothing."""
        if self._file.is_open:
            self._flush()
            self._file.close()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._file.schema))
        self._rows, self._characters = [], 0


def staged_schema(name: str) -> pa.Schema:
    """The columns of a table, all of which a deleted row may lack, and what ingestion adds."""
    columns = [pa.field(field.name, field.type) for field in file_schema(name)]
    return pa.schema([*columns, pa.field("deleted", pa.bool_()), pa.field("row_id", pa.string())])


@dataclass(frozen=True)
class Intake:
    """One source on its way into the warehouse."""

    folder: Path
    job: str
    source: str
    run_id: str
    tables: dict[str, StagedRows]
    rejects: StagedRows
    forgotten: Container[object]
    """Ids of users whose rows are refused, and nothing of them kept."""

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, folder: Path, job: str, source: Path, run_id: str, names: Iterable[str], forgotten: Container[object] = ()
    ) -> Generator[Self]:
        """An empty intake for tables of these names."""
        tables = {name: StagedRows(folder / f"{name}.parquet", staged_schema(name)) for name in names}
        rejects = StagedRows(folder / "rejects.parquet", file_schema("rejects"))
        try:
            yield cls(folder, job, source.absolute().as_posix(), run_id, tables, rejects, forgotten)
        finally:
            for staged in (*tables.values(), rejects):
                staged.close()

    def take(self, name: str, row_id: str, row: Row | Refusal) -> None:
        """Stage a row of a table, or its refusal."""
        if isinstance(row, Refusal):
            self.refuse(row_id, row)
        elif row["user_id"] in self.forgotten:
            self.refuse(row_id, Refusal("forgotten_user", user_id=row["user_id"]))
        else:
            self.tables[name].add(row | {"row_id": row_id})

    def refuse(self, row_id: str, refusal: Refusal) -> None:
        """Stage a row of `rejects`; of a forgotten user's row only where it stands in the file."""
        if refusal.user_id in self.forgotten or named_user(refusal.detail) in self.forgotten:
            name = Path(self.source).name
            row_id = row_id if row_id.startswith(f"{name}:") else name  # LaMP's row ids are ids of users
            refusal = Refusal("forgotten_user")
        origin = {"job": self.job, "source": self.source, "run_id": self.run_id, "row_id": row_id}
        self.rejects.add(origin | vars(refusal))
