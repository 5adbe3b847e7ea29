"""A part of a file, as it was found: some rows' columns, and the rows that could not be read at all."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.intake import limits
from pipelines.intake.columns import RawColumn
from pipelines.intake.rejects import Reject, described

Numbered = tuple[int, object | Reject]  # line or place, counted from 1, and what stands there
ColumnNames = Mapping[str, str]  # a column of a table and what the file calls it


@dataclass(frozen=True)
class Chunk:
    """Rows of a file that are checked together."""

    row_ids: Sequence[str] = ()  # how each row is called in `rejects`
    columns: Mapping[str, RawColumn] = field(default_factory=dict[str, RawColumn])
    """By the table's names; a column that the file does not have is left out."""
    refused: Sequence[tuple[str, Reject]] = ()
    """Row ids of what is no row, and why; they count beside the rows."""
    names: frozenset[str] = frozenset()  # what the file calls its columns


class Gathered:
    """Records that are gathered until there are enough for a chunk, by their bytes or their number."""

    def __init__(self, columns: ColumnNames) -> None:
        self._columns = columns
        self._clear()

    def _clear(self) -> None:
        self._records = list[Mapping[str, Any]]()
        self._row_ids, self._refused, self._size = list[str](), list[tuple[str, Reject]](), 0

    def add(self, row_id: str, record: object | Reject) -> None:
        """Add a JSON object, or what is none."""
        if isinstance(record, dict):
            self._records.append(record)
            self._row_ids.append(row_id)
            self._size += 200
            for text in record.values():  # for millions of rows: half the time of a sum
                if isinstance(text, str):
                    self._size += len(text)
        else:
            reject = record if isinstance(record, Reject) else Reject("not_an_object", described(record))
            self._refused.append((row_id, reject))

    @property
    def is_full(self) -> bool:
        count = len(self._records) + len(self._refused)
        return self._size >= limits.BATCH_BYTES or count >= limits.BATCH_ROWS

    def take(self) -> Chunk:
        """Make a chunk of what there is, and begin anew."""
        columns = {ours: [record.get(theirs) for record in self._records] for ours, theirs in self._columns.items()}
        names = frozenset(str(name) for record in self._records[:100] for name in record)
        chunk = Chunk(self._row_ids, columns, self._refused, names)
        self._clear()
        return chunk


def chunks_of_records(label: str, records: Iterable[Numbered], columns: ColumnNames) -> Iterator[Chunk]:
    """Gather JSON objects into chunks of bounded size."""
    gathered = Gathered(columns)
    for number, record in records:
        gathered.add(f"{label}:{number}", record)
        if gathered.is_full:
            yield gathered.take()
    yield gathered.take()


def repeated_column(label: str, columns: ColumnNames, names: Sequence[str]) -> Chunk | None:
    """Refuse a file that has a column of ours twice: which one is meant?"""
    twice = [theirs for theirs in columns.values() if names.count(theirs) > 1]
    return Chunk(refused=[(f"{label}:0", Reject("repeated_column", f"column {twice[0]}"))]) if twice else None
