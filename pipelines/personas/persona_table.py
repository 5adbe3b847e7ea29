"""Rows of `persona_vectors` and `history_vectors` from the encoded items of some users, without Beam."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from embedder.compact import Codes, CompactVectors, FloatArray
from embedder.personas import Summary
from pipelines.tables.schema import file_schema


def persona_table(items: pa.Table, vectors: CompactVectors, max_vectors: int, constants: Mapping[str, str]) -> pa.Table:
    """Summarise the items of each user; one row per user.

    Args:
        items: user_id, kind, item_id, posted_at of n items, by user and the oldest first.
        vectors: n unit vectors.
        max_vectors: most vectors that stand for one user.
        constants: columns that are the same in all rows (encoder_sha256, run_id).
    """
    columns = {name: items.column(name).to_pylist() for name in ("user_id", "kind", "item_id", "posted_at")}
    users = [slice(start, stop) for start, stop in runs_of_equals(columns["user_id"])]
    nothing = Summary.empty(vectors.width)
    personas = [nothing.absorb(vectors[user], max_vectors) for user in users]
    sizes = [len(persona.counts) for persona in personas]
    typical = [user.start + at for user, persona in zip(users, personas, strict=True) for at in persona.typical]
    merged = CompactVectors.concatenate([nothing.vectors, *(persona.vectors for persona in personas)])
    means = np.array([persona.mean for persona in personas], np.float32).reshape(len(users), vectors.width)
    return table_of(
        "persona_vectors",
        {
            "user_id": [columns["user_id"][user.start] for user in users],
            "persona": lists_of(means),
            "vectors": grouped(lists_of(merged.codes), sizes),
            "vector_scales": grouped(pa.array(merged.scales), sizes),
            "counts": [persona.counts.tolist() for persona in personas],
            "items": grouped(named_items(columns, typical), sizes),
            "item_count": [user.stop - user.start for user in users],
            "first_posted_at": [columns["posted_at"][user.start] for user in users],
            "last_posted_at": [columns["posted_at"][user.stop - 1] for user in users],
        },
        constants,
    )


def history_vector_table(items: pa.Table, vectors: CompactVectors, constants: Mapping[str, str]) -> pa.Table:
    """One row per item of `items`, which has the key columns, posted_at and item_sha256."""
    names = ("user_id", "kind", "item_id", "posted_at", "item_sha256")
    own = {"vector": lists_of(vectors.codes), "vector_scale": pa.array(vectors.scales)}
    return table_of("history_vectors", {name: items.column(name) for name in names} | own, constants)


def named_items(columns: Mapping[str, Sequence[str]], chosen: Sequence[int]) -> pa.Array:
    """(kind, item_id) of the items at the places `chosen`."""
    kinds = pa.array([columns["kind"][at] for at in chosen], pa.string())
    item_ids = pa.array([columns["item_id"][at] for at in chosen], pa.string())
    return pa.StructArray.from_arrays([kinds, item_ids], ["kind", "item_id"])


def runs_of_equals(values: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of equal neighbours."""
    start = 0
    for at in range(1, len(values) + 1):
        if at == len(values) or values[at] != values[start]:
            yield start, at
            start = at


def lists_of(rows: FloatArray | Codes) -> pa.Array:
    """(n, d) numbers as n lists."""
    count, width = rows.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(rows).reshape(-1)))


def grouped(values: pa.Array, sizes: Sequence[int]) -> pa.Array:
    """Lists of the given sizes, cut from `values` one after the other."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values)


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
    given = {**{key: [value] * row_count for key, value in constants.items()}, **columns}
    return pa.Table.from_arrays([as_type(given[field.name], field.type) for field in schema], schema=schema)


def as_type(column: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """A column of values or of Arrow as the given type."""
    return column.cast(kind) if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, kind)
