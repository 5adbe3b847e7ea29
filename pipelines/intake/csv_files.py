"""Read CSV and TSV: a header, then rows of as many fields; fields may hold line breaks.

Python's own reader goes row by row, so that one broken row costs no other, whatever its size.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import IO, Any, Final

from pipelines.intake import limits
from pipelines.intake.chunks import Chunk, Columns, numbered_id
from pipelines.intake.json_files import text_of_file
from pipelines.intake.rows import Refusal

DELIMITERS: Final = ",\t;|"
_QUOTED: Final = re.compile(r'"[^"]*"')


def delimiter_of(header: str) -> str:
    """What stands most often between the names of a header."""
    bare = _QUOTED.sub("", header)
    return max(DELIMITERS, key=bare.count)


def csv_chunks(label: str, file: IO[bytes], columns: Columns) -> Iterator[Chunk]:
    """Read the rows with the lines they begin in; an empty field is null."""
    with text_of_file(file) as text:
        yield from _chunks(label, _lines(text), columns)


def _chunks(label: str, lines: Iterator[str], columns: Columns) -> Iterator[Chunk]:
    header = next(lines, "")
    csv.field_size_limit(limits.LINE_BYTES)
    delimiter = delimiter_of(header)
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    used = {ours: names.index(theirs) for ours, theirs in columns.items() if theirs in names}
    twice = [theirs for theirs in columns.values() if names.count(theirs) > 1]
    if twice:
        yield Chunk(0, {}, str, [(f"{label}:1", Refusal("repeated_column", f"column {twice[0]}"))])
        return
    rows: list[Sequence[str]] = []
    numbers: list[int] = []
    refused: list[tuple[str, Refusal]] = []
    size = 0
    for number, row in _rows(csv.reader(lines, delimiter=delimiter)):
        if isinstance(row, Refusal) or len(row) != len(names):
            wrong = (
                Refusal("wrong_field_count", f"{len(row)} fields, {len(names)} columns")
                if isinstance(row, list)
                else row
            )
            refused.append((f"{label}:{number}", wrong))
        else:
            rows.append(row)
            numbers.append(number)
            size += sum(map(len, row)) + 200
        if size >= limits.BATCH_BYTES or len(rows) + len(refused) >= limits.BATCH_ROWS:
            yield _chunk(label, rows, numbers, refused, used, names)
            rows, numbers, refused, size = [], [], [], 0
    yield _chunk(label, rows, numbers, refused, used, names)


def _chunk(
    label: str,
    rows: Sequence[Sequence[str]],
    numbers: Sequence[int],
    refused: Sequence[tuple[str, Refusal]],
    used: dict[str, int],
    names: Sequence[str],
) -> Chunk:
    found = {ours: [row[at] or None for row in rows] for ours, at in used.items()}
    return Chunk(len(rows), found, partial(numbered_id, label, numbers), refused, frozenset(names))


def _rows(reader: Any) -> Iterator[tuple[int, list[str] | Refusal]]:
    """The rows that are not blank; the header was line 1."""
    while True:
        number = reader.line_num + 2
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:  # a field without an end
            yield number, Refusal("row_too_large", f"a field of more than {limits.LINE_BYTES} characters")
        else:
            if row:
                yield number, row


def _lines(file: IO[str]) -> Iterator[str]:
    """The lines; of one that is too long only as much as is refused for its size."""
    while line := file.readline(limits.LINE_BYTES):
        yield line
        while len(line) == limits.LINE_BYTES and not line.endswith("\n"):
            line = file.readline(limits.LINE_BYTES)
