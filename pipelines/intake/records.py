"""The records of a file, JSONL or Parquet by its content, one at a time and never all in memory.

    file ─▶ records ─▶ (line, record) or (line, Refusal)

A file that is neither, or breaks off, is one refusal of line 0; what was read before stays good.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from embedder.errors import InputMissing, PplugError
from pipelines.intake.rows import Refusal, parse_line, shown

PARQUET_MAGIC: Final = b"PAR1"
BATCH_ROWS: Final = 2_000
LINE_BYTES: Final = 64 * 2**20
"""A longer line is refused; without a limit a file without line ends would fill the memory."""

Numbered = tuple[int, object | Refusal]


def require_files(paths: Sequence[Path]) -> None:
    """Check all files before anything is written.

    Raises:
        InputMissing: if one is not there.
        PplugError: if one is a folder or may not be read.
    """
    for path in paths:
        if not path.exists():
            raise InputMissing(f"no file {path}: check the path")
        try:
            path.open("rb").close()
        except OSError as error:
            raise PplugError(f"{path} cannot be read ({error.strerror}): name a readable file") from error


def records(path: Path, columns: Collection[str]) -> Iterator[Numbered]:
    """The records of a file with their line, counted from 1.

    Args:
        path: JSONL or Parquet, whatever its name; blank lines of JSONL are no records.
        columns: the columns to read of a Parquet file.
    """
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(0)
        if head.startswith(PARQUET_MAGIC):
            yield from _parquet_records(file, columns)
        elif path.suffix == ".parquet" and head and not head.lstrip().startswith(b"{"):
            yield 0, Refusal("not_a_parquet_file", shown(head))
        elif b"\0" in head or head.startswith(b"\x1f\x8b"):  # binary, UTF-16 or gzip
            yield 0, Refusal("not_jsonl_or_parquet", shown(head))
        else:
            yield from _jsonl_records(file)


def _jsonl_records(file: IO[bytes]) -> Iterator[Numbered]:
    number = 0
    while line := file.readline(LINE_BYTES):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) == LINE_BYTES and not line.endswith(b"\n"):
            yield number, Refusal("line_too_long", shown(line[:1000]))
            while (rest := file.readline(LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
        elif line.strip():
            yield number, parse_line(line)


def _parquet_records(file: IO[bytes], columns: Collection[str]) -> Iterator[Numbered]:
    number = 0
    try:
        parquet = pq.ParquetFile(file)
        there = [name for name in parquet.schema_arrow.names if name in columns]
        for batch in parquet.iter_batches(BATCH_ROWS, columns=there or None):
            for record in _batch_records(batch):
                number += 1
                yield number, record
    except (pa.ArrowException, OSError) as error:
        reason = "broken_parquet" if number else "not_a_parquet_file"
        yield 0, Refusal(reason, shown(f"after {number} rows: {error}"))


def _batch_records(batch: pa.RecordBatch) -> list[dict[str, Any]] | Iterator[object | Refusal]:
    plain = pa.record_batch([_in_microseconds(column) for column in batch.columns], names=batch.schema.names)
    try:
        return plain.to_pylist()
    except (ValueError, OverflowError):  # one value of the batch is no Python value
        return (_one_record(plain.slice(row, 1)) for row in range(plain.num_rows))


def _one_record(batch: pa.RecordBatch) -> object | Refusal:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return Refusal("not_utf8", shown(error.object))
    except (ValueError, OverflowError) as error:  # a time beyond the year 9999
        return Refusal("unreadable_value", shown(str(error)))


def _in_microseconds(column: pa.Array) -> pa.Array:
    """Times cut to what a datetime can hold, in UTC if they have a zone."""
    if not pa.types.is_timestamp(column.type):
        return column
    return column.cast(pa.timestamp("us", "UTC" if column.type.tz else None), safe=False)
