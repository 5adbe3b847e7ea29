"""Stage the rows of a command on disk until all of it is read, so that memory stays bounded.

chunk ─▶ check_chunk ─▶ <table>.parquet
             └────────▶ rejects.parquet
"""

import contextlib
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.intake import limits
from pipelines.intake.checks import RowRules, check_chunk, staged_schema
from pipelines.intake.chunks import Chunk
from pipelines.intake.rejects import Reject
from pipelines.intake.task_warnings import TaskWarnings
from pipelines.tables.schema import file_schema


class StagedRows:
    """Rows of a table that wait in a Parquet file, a row group for each chunk."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.count = path, 0
        self._file = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1)

    def add(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self.count += rows.num_rows
            self._file.write_table(rows.cast(self._file.schema))

    def close(self) -> None:
        """Finish the file; closing twice does nothing."""
        if self._file.is_open:
            self._file.close()


@dataclass
class Seen:
    """What the rows of a source were, to tell when all were refused for one reason."""

    names: frozenset[str] = frozenset()  # the columns of the first chunk
    rows_in: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])


@dataclass(frozen=True)
class Intake:
    """The sources of a command on their way into the warehouse."""

    job: str
    run_id: str
    tables: dict[str, StagedRows]
    rejects: StagedRows
    rules: RowRules
    warnings: TaskWarnings
    seen: dict[str, Seen] = field(default_factory=dict[str, Seen])  # by the name of the source

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path, job: str, run_id: str, names: Iterable[str], rules: RowRules) -> Generator[Self]:
        """An empty intake for tables of these names."""
        tables = {name: StagedRows(folder / f"{name}.parquet", staged_schema(name)) for name in names}
        rejects = StagedRows(folder / "rejects.parquet", file_schema("rejects"))
        try:
            yield cls(job, run_id, tables, rejects, rules, TaskWarnings(rules.kinds))
        finally:
            for staged in (*tables.values(), rejects):
                staged.close()

    @property
    def rows_in(self) -> int:
        """Rows read so far, each once."""
        return self.rejects.count + sum(staged.count for staged in self.tables.values())

    def take(self, name: str, source: str, chunk: Chunk) -> None:
        """Put the rows of a chunk aside, or their refusals."""
        checked = check_chunk(name, chunk, self.rules)
        self.tables[name].add(self.warnings.checked(checked.rows) if name == "tasks" else checked.rows)
        for start in range(0, len(checked.refused), limits.BATCH_ROWS):
            self._refuse(source, checked.refused[start : start + limits.BATCH_ROWS])
        seen = self.seen.setdefault(source, Seen(chunk.names))
        seen.rows_in += checked.rows.num_rows + len(checked.refused)
        seen.reasons.update(reject.reason for _, reject in checked.refused)

    def _refuse(self, source: str, refused: Sequence[tuple[str, Reject]]) -> None:
        """Stage rejects; of a forgotten user's row only where it stands in the file."""
        origin = {"job": self.job, "source": source, "run_id": self.run_id}
        label = Path(source).name
        rows: list[dict[str, Any]] = []
        for row_id, reject in refused:
            if reject.reason == "forgotten_user" or reject.user_id in self.rules.forgotten:
                row_id = row_id if row_id.startswith(f"{label}:") else label  # LaMP's row ids are ids of users
                reject = Reject("forgotten_user")
            rows.append(origin | {"row_id": row_id} | vars(reject))
        self.rejects.add(pa.Table.from_pylist(rows, schema=file_schema("rejects")))
