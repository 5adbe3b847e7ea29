"""Read CSV and TSV: a header, then rows of as many fields; fields may hold line breaks.

Python's own reader goes row by row, so that one broken row costs no other, whatever its size.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any, Final

from pipelines.intake import limits
from pipelines.intake.chunks import Chunk, ColumnNames, Numbered, chunks_of_records, repeated_column
from pipelines.intake.json_files import text_of_file
from pipelines.intake.rejects import Reject

DELIMITERS: Final = ",\t;|"
_QUOTED: Final = re.compile(r'"[^"]*"')


def delimiter_of(header: str) -> str:
    """What stands most often between the names of a header."""
    bare = _QUOTED.sub("", header)
    return max(DELIMITERS, key=bare.count)


def csv_chunks(label: str, file: IO[bytes], columns: ColumnNames) -> Iterator[Chunk]:
    """Read the rows with the lines they begin in; an empty field is null."""
    csv.field_size_limit(limits.LINE_BYTES)
    with text_of_file(file) as text:
        lines = _lines(text)
        header = next(lines, "")
        delimiter = delimiter_of(header)
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        if repeated := repeated_column(label, columns, names):
            yield repeated
            return
        rows = _rows(csv.reader(lines, delimiter=delimiter), names)
        for chunk in chunks_of_records(label, rows, {our: their for our, their in columns.items() if their in names}):
            yield replace(chunk, names=frozenset(names))


def _rows(reader: Any, names: list[str]) -> Iterator[Numbered]:
    """The rows that are not blank, as objects; the header was line 1."""
    while True:
        number = reader.line_num + 2
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:  # a field without an end
            yield number, Reject("row_too_large", f"a field of more than {limits.LINE_BYTES} characters")
        else:
            if row and len(row) == len(names):
                yield number, {name: value or None for name, value in zip(names, row, strict=True)}
            elif row:
                yield number, Reject("wrong_field_count", f"{len(row)} fields, {len(names)} columns")


def _lines(file: IO[str]) -> Iterator[str]:
    """The lines; of one that is too long only as much as is refused for its size."""
    while line := file.readline(limits.LINE_BYTES):
        yield line
        while len(line) == limits.LINE_BYTES and not line.endswith("\n"):
            line = file.readline(limits.LINE_BYTES)
