"""A part of a file, as it was found: some rows' columns, and the rows that could not be read at all."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipelines.intake import limits
from pipelines.intake.found import Found
from pipelines.intake.rows import Refusal, described

Numbered = tuple[int, object | Refusal]
"""Line or place, counted from 1, and what stands there."""
Columns = Mapping[str, str]
"""A column of a table and what the file calls it."""


@dataclass(frozen=True)
class Chunk:
    """Rows of a file that are checked together."""

    count: int
    columns: Mapping[str, Found]
    """By the table's names; a column that the file does not have is left out."""
    row_id: Callable[[int], str]
    """How the row at a place of the chunk is called in `rejects`."""
    refused: Sequence[tuple[str, Refusal]] = ()
    """Row ids and refusals of what is no row; they count beside `count`."""
    names: frozenset[str] = field(default=frozenset())
    """What the file calls its columns."""


def numbered_id(label: str, numbers: Sequence[int], at: int) -> str:
    """The row id `file name:line`."""
    return f"{label}:{numbers[at]}"


def chunks_of_records(label: str, found: Iterable[Numbered], columns: Columns) -> Iterator[Chunk]:
    """Gather JSON objects into chunks of bounded size."""
    records: list[Mapping[str, Any]] = []
    numbers: list[int] = []
    refused: list[tuple[str, Refusal]] = []
    size = 0
    for number, value in found:
        if isinstance(value, dict):
            record: dict[str, Any] = value
            records.append(record)
            numbers.append(number)
            size += 200
            for text in record.values():  # for millions of rows: half the time of a sum
                if isinstance(text, str):
                    size += len(text)
        else:
            refusal = value if isinstance(value, Refusal) else Refusal("not_an_object", described(value))
            refused.append((f"{label}:{number}", refusal))
        if size >= limits.BATCH_BYTES or len(records) + len(refused) >= limits.BATCH_ROWS:
            yield _chunk(label, records, numbers, refused, columns)
            records, numbers, refused, size = [], [], [], 0
    yield _chunk(label, records, numbers, refused, columns)


def _chunk(
    label: str,
    records: Sequence[Mapping[str, Any]],
    numbers: Sequence[int],
    refused: Sequence[tuple[str, Refusal]],
    columns: Columns,
) -> Chunk:
    found = {ours: [record.get(theirs) for record in records] for ours, theirs in columns.items()}
    names = frozenset(str(name) for record in records[:100] for name in record)
    return Chunk(len(records), found, partial(numbered_id, label, numbers), refused, names)
