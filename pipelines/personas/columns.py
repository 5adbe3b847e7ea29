"""Vectors and other columns as Arrow arrays of the tables' types."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from embedder.compact import Codes, CompactVectors, FloatArray
from pipelines.tables.schema import file_schema


def lists_of(rows: FloatArray | Codes) -> pa.Array:
    """(n, d) numbers as n lists."""
    count, width = rows.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(rows).reshape(-1)))


def grouped(values: pa.Array, sizes: Sequence[int]) -> pa.Array:
    """Lists of the given sizes, cut from `values` one after the other."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values)


def with_vectors(rows: pa.Table, vectors: CompactVectors) -> pa.Table:
    """Rows with their vectors in two columns more."""
    rows = rows.append_column("vector", lists_of(vectors.codes))
    return rows.append_column("vector_scale", pa.array(vectors.scales))


def compact_vectors(
    codes: pa.ChunkedArray | pa.Array, scales: pa.ChunkedArray | pa.Array, width: int
) -> CompactVectors:
    """The vectors of two columns without nulls: lists of codes, and scales."""
    flat = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    return CompactVectors(
        flat.flatten().to_numpy(zero_copy_only=False).reshape(-1, width), scales.to_numpy(zero_copy_only=False)
    )


def table_of(name: str, columns: Mapping[str, Any], constants: Mapping[str, str]) -> pa.Table:
    """The columns as rows of a table of the contract; `constants` are the same in every row."""
    schema = file_schema(name)
    row_count = len(next(iter(columns.values())))
    given: dict[str, Any] = {**{key: [value] * row_count for key, value in constants.items()}, **columns}
    typed = [
        given[name].cast(kind) if isinstance(given[name], pa.Array | pa.ChunkedArray) else pa.array(given[name], kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.Table.from_arrays(typed, schema=schema)
