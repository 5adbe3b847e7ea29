"""Rows of `persona_vectors` and `history_vectors` from the encoded items of some users, without Beam."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from embedder.histories import RECENT_ITEMS, recent_mean
from embedder.personas import FloatArray, summarise
from pipelines.tables.schema import file_schema


def persona_table(items: pa.Table, vectors: FloatArray, max_vectors: int, constants: Mapping[str, str]) -> pa.Table:
    """One row per user.

    Args:
        items: user_id, kind, item_id, posted_at of n items in key order.
        vectors: (n, d) unit vectors.
        max_vectors: most vectors that stand for one user.
        constants: columns that are the same in all rows (encoder_sha256, run_id).
    """
    columns = {name: items.column(name).to_pylist() for name in ("user_id", "kind", "item_id", "posted_at")}
    users = [slice(start, stop) for start, stop in runs_of_equals(columns["user_id"])]
    personas = [summarise(vectors[user], max_vectors) for user in users]
    sizes = [len(persona.counts) for persona in personas]
    times = [columns["posted_at"][user] for user in users]
    recents = [recent_mean(vectors[newest(columns["posted_at"], user)]) for user in users]
    typical = [user.start + at for user, persona in zip(users, personas, strict=True) for at in persona.typical]
    return table_of(
        "persona_vectors",
        {
            "user_id": [columns["user_id"][user.start] for user in users],
            "persona": vector_column(np.stack([persona.mean for persona in personas]) if users else vectors[:0]),
            "vectors": grouped(vector_column(np.concatenate([vectors[:0], *(p.vectors for p in personas)])), sizes),
            "counts": [persona.counts.tolist() for persona in personas],
            "items": grouped(named_items(columns, typical), sizes),
            "recent": vector_column(np.stack(recents) if users else vectors[:0]),
            "item_count": [user.stop - user.start for user in users],
            "first_posted_at": [min(posted) for posted in times],
            "last_posted_at": [max(posted) for posted in times],
        },
        constants,
    )


def newest(times: Sequence[datetime], user: slice) -> list[int]:
    """Places of a user's newest items, oldest first; of equally old ones in key order."""
    return sorted(range(user.start, user.stop), key=lambda at: times[at])[-RECENT_ITEMS:]


def history_vector_table(items: pa.Table, vectors: FloatArray, constants: Mapping[str, str]) -> pa.Table:
    """One row per item of `items`, which has the key columns, posted_at and item_sha256."""
    names = ("user_id", "kind", "item_id", "posted_at", "item_sha256")
    return table_of(
        "history_vectors", {name: items.column(name) for name in names} | {"vector": vector_column(vectors)}, constants
    )


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


def vector_column(vectors: FloatArray) -> pa.Array:
    """(n, d) floats as n lists."""
    count, width = vectors.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float32()))


def grouped(values: pa.Array, sizes: Sequence[int]) -> pa.Array:
    """Lists of the given sizes, cut from `values` one after the other."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values)


def matrix(column: pa.ChunkedArray | pa.Array, width: int) -> FloatArray:
    """(n, width) floats of a column of lists without nulls."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return values.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def table_of(name: str, columns: Mapping[str, Any], constants: Mapping[str, str]) -> pa.Table:
    """The columns as rows of a table of the contract; `constants` are the same in every row."""
    schema = file_schema(name)
    row_count = len(next(iter(columns.values())))
    given = {**{key: [value] * row_count for key, value in constants.items()}, **columns}
    return pa.Table.from_arrays([as_type(given[field.name], field.type) for field in schema], schema=schema)


def as_type(column: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """A column of values or of Arrow as the given type."""
    return column.cast(kind) if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, kind)
