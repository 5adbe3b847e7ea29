"""What users produced for the items behind the vectors of their personas, read from the histories.

    persona_vectors: vectors, items ─┐
    histories: outputs ──────────────┼─▶ PastLabels of each user
    history_vectors (merged users) ──┘

An item that was merged counts for the vector with the greatest cosine to its own: vectors are merged with what is near.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple, cast

import duckdb
import numpy as np

from embedder.compact import FloatArray
from embedder.histories import PastLabels
from pipelines.tables.views import run_sql


class LabelledItem(NamedTuple):
    """An item of a history."""

    key: tuple[str, str]
    """Kind and item_id."""
    output: str | None
    vector: FloatArray | None
    """(D,) where some of the user's items were merged; its scale does not matter."""


def labelled_items(
    db: duckdb.DuckDBPyConnection, persona_ds: date, users: Sequence[str]
) -> Mapping[str, Sequence[LabelledItem]]:
    """By user, the items that personas of a night were made of, oldest first."""
    params = {"persona_ds": persona_ds, "users": cast(Any, sorted(set(users)))}
    rows = run_sql(db, "jobs/past_labels", params)
    found = defaultdict[str, list[LabelledItem]](list)
    names = ("user_id", "kind", "item_id", "output")
    columns = zip(*(rows.column(name).to_pylist() for name in names), rows.column("vector"), strict=True)
    for user_id, kind, item_id, output, vector in columns:
        own = vector.values.to_numpy().astype(np.float32) if vector.is_valid else None
        found[user_id].append(LabelledItem((kind, item_id), output, own))
    return found


def labels_behind(
    vectors: FloatArray, typical: Sequence[Mapping[str, str]], items: Sequence[LabelledItem]
) -> PastLabels:
    """The labels behind a persona's vectors (n, D).

    Args:
        vectors: of the persona.
        typical: (n,) kind and item_id of the most typical item of each vector.
        items: the user's, oldest first; of those without a vector only the typical ones count.
    """
    of_all = PastLabels.of_items([item.output for item in items])
    at_key = {item.key: at for at, item in enumerate(items)}
    stands_for = [at_key.get((one["kind"], one["item_id"])) for one in typical]
    if items and items[0].vector is not None:
        known = [at for at, item in enumerate(items) if item.vector is not None]
        stacked = np.stack([vector for item in items if (vector := item.vector) is not None])
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        places = (stacked @ (vectors / lengths).T).argmax(axis=1)
        # A mean that is nobody's nearest has the label of its most typical item.
        left = [row for row in range(len(vectors)) if stands_for[row] is not None and row not in set(places.tolist())]
    else:
        known, places = list[int](), np.zeros(0, np.int64)
        left = [row for row in range(len(vectors)) if stands_for[row] is not None]
    rows = np.concatenate([places, np.array(left, np.int64)])
    chosen = [*known, *(at for row in left if (at := stands_for[row]) is not None)]
    shares = np.zeros((len(vectors), len(of_all.names)), np.float32)
    np.add.at(shares, rows, of_all.shares[chosen])
    sizes = np.bincount(rows, minlength=len(vectors)).astype(np.float32)
    return of_all._replace(shares=shares / np.maximum(sizes, 1)[:, None])
