"""Read Parquet of any writer in chunks of bounded size, however large its rows are and however well they are packed.

Columns of texts stay in their dictionaries until a chunk is cut: 2,000 rows of one text of 2 MB are 10 KB in a file.
"""

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.intake import limits
from pipelines.intake.chunks import Chunk, ColumnNames, repeated_column
from pipelines.intake.columns import byte_lengths, compute
from pipelines.intake.rejects import Reject
from pipelines.tables.parquet import rows_within

MAGIC: Final = b"PAR1"


def parquet_chunks(label: str, file: IO[bytes], columns: ColumnNames) -> Iterator[Chunk]:
    """Read a file that can be read in any order; one that breaks off gives what stands before the break."""
    number = 0
    try:
        names = pq.read_schema(file).names
        if repeated := repeated_column(label, columns, names):
            yield repeated
            return
        wanted = {ours: theirs for ours, theirs in columns.items() if theirs in names}
        file.seek(0)
        packed = _dictionaries(pq.read_metadata(file), wanted.values())
        file.seek(0)
        parquet = pq.ParquetFile(file, read_dictionary=packed, coerce_int96_timestamp_unit="us")
        for batch in _batches(parquet, list(wanted.values()) or names[:1]):
            yield from chunks_of_batch(label, batch, number, wanted, frozenset(names))
            number += batch.num_rows
    except (pa.ArrowException, OSError, ValueError):
        reason = "broken_parquet" if number else "not_a_parquet_file"
        yield Chunk(refused=[(f"{label}:0", Reject(reason, f"after {number} rows"))])


def _dictionaries(meta: pq.FileMetaData, wanted: Collection[str]) -> list[str]:
    """The columns to read as dictionaries: Arrow holds those of a row group whole, so only where that is little."""
    most: dict[str, int] = {}
    for group in range(meta.num_row_groups):
        for number in range(meta.num_columns):
            column = meta.row_group(group).column(number)
            if column.physical_type == "BYTE_ARRAY" and column.path_in_schema in wanted:
                name = column.path_in_schema
                most[name] = max(most.get(name, 0), column.total_uncompressed_size)
    return [name for name, size in most.items() if size <= 2 * limits.BATCH_BYTES]


def _batches(parquet: pq.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    """One row group after the other, so that a broken one costs no rows of those before."""
    rows = rows_within(parquet.metadata, limits.BATCH_BYTES)
    for group in range(parquet.num_row_groups):
        yield from parquet.iter_batches(rows, row_groups=[group], columns=names)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)


def chunks_of_batch(
    label: str, batch: pa.RecordBatch, before: int, wanted: ColumnNames, names: frozenset[str]
) -> Iterator[Chunk]:
    """Cut a batch where BATCH_BYTES are full; rows that are too large are refused before anything is unpacked."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        sizes += _text_bytes(column)
    numbers = np.arange(before + 1, before + batch.num_rows + 1)
    large = sizes > limits.ROW_BYTES
    users = _users(batch, wanted, large)
    refused = [
        (f"{label}:{number}", Reject("row_too_large", f"a row of {size} bytes", user))
        for number, size, user in zip(numbers[large].tolist(), sizes[large].tolist(), users, strict=True)
    ]
    kept, numbers = batch.filter(pa.array(~large)), numbers[~large]
    parts = np.cumsum(sizes[~large]) // limits.BATCH_BYTES
    cuts = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), kept.num_rows]
    for start, end in pairwise(cuts):
        part = kept.slice(start, end - start)
        found = {ours: part.column(theirs) for ours, theirs in wanted.items()}
        yield Chunk([f"{label}:{number}" for number in numbers[start:end]], found, refused, names)
        refused = []


def _users(batch: pa.RecordBatch, wanted: ColumnNames, large: NDArray[Any]) -> list[str | None]:
    """Whose the large rows are, where it is a text."""
    if "user_id" not in wanted or not large.any():
        return [None] * int(large.sum())
    column = batch.column(wanted["user_id"]).filter(pa.array(large))
    return [
        user if isinstance(user, str) and len(user) <= limits.ID_CHARACTERS else None for user in column.to_pylist()
    ]


def _text_bytes(column: pa.Array) -> NDArray[Any]:
    """Bytes of each value of a column of texts; 8 of any other."""
    if pa.types.is_dictionary(column.type) and _is_text(column.type.value_type):
        sizes = compute("take", pa.array(byte_lengths(column.dictionary)), column.indices)
        return np.asarray(sizes.fill_null(0), np.int64)
    return byte_lengths(column) if _is_text(column.type) else np.full(len(column), 8, np.int64)
