"""The stored part of a persona: rows of `persona_vectors`, and what of them is made anew in a night.

    base of a user, as a row ─┐
    items since, and tonight's┴─▶ as many as make one vector too many are merged ─▶ a new base, as a row

A user whose items fit has no base: the persona is the items. A base is a function of the items in it, so it does not
matter in which nights they came.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from embedder.compact import CompactVectors
from embedder.personas import ItemKey, Items, Summary
from pipelines.personas.columns import compact_vectors, grouped, lists_of, table_of


@dataclass(frozen=True, eq=False)
class Base:
    """The stored part of a persona."""

    summary: Summary
    first_posted_at: int | None = None  # of its oldest item, microseconds since 1970; None without one
    last_posted_at: int | None = None


class UserItems(NamedTuple):
    """Items of one user, oldest first."""

    items: Items
    posted_at: Sequence[int]  # microseconds since 1970

    def __getitem__(self, part: slice) -> "UserItems":  # type: ignore[override]
        return UserItems(self.items[part], self.posted_at[part])

    def __add__(self, newer: "UserItems") -> "UserItems":  # type: ignore[override]
        return UserItems(self.items + newer.items, [*self.posted_at, *newer.posted_at])

    def chosen(self, order: Sequence[int]) -> "UserItems":
        """Some of them, in another order."""
        own = self.items
        columns: Any = ([column[at] for at in order] for column in (own.keys, own.labels, own.sha256s))
        return UserItems(Items(own.vectors[np.array(order)], *columns), [self.posted_at[at] for at in order])


def with_newer(base: Base, newer: UserItems, max_vectors: int) -> tuple[Base, UserItems]:
    """Take in items as often as there is a vector too many: the base with them, and the items that stay single."""
    summary, taken = base.summary.condensed(newer.items, max_vectors)
    if not taken:
        return base, newer
    first = newer.posted_at[0] if base.first_posted_at is None else base.first_posted_at
    return Base(summary, first, newer.posted_at[taken - 1]), newer[taken:]


def base_table(bases: Mapping[str, Base], constants: Mapping[str, str], width: int) -> pa.Table:
    """Rows of `persona_vectors`: the base of each user; one of no items says that none is stored any more."""
    summaries = [base.summary for base in bases.values()]
    sizes = [len(summary.counts) for summary in summaries]
    vectors = CompactVectors.concatenate([CompactVectors.empty(width), *(one.vectors for one in summaries)])
    means = np.array([summary.mean for summary in summaries], np.float32).reshape(len(summaries), width)
    return table_of(
        "persona_vectors",
        {
            "user_id": list(bases),
            "persona": pa.array([mean if one.item_count else [] for mean, one in zip(means, summaries, strict=True)]),
            "vectors": grouped(lists_of(vectors.codes), sizes),
            "vector_scales": grouped(pa.array(vectors.scales), sizes),
            "counts": [summary.counts.tolist() for summary in summaries],
            "items": [[_item(key) for key in summary.typical] for summary in summaries],
            "item_count": [summary.item_count for summary in summaries],
            "first_posted_at": [base.first_posted_at for base in bases.values()],
            "last_posted_at": [base.last_posted_at for base in bases.values()],
            "items_sha256": [summary.items_sha256 for summary in summaries],
            "label_counts": [[_counts(own) for own in summary.labels] for summary in summaries],
            "newest_labels": [list(summary.newest_labels) for summary in summaries],
            "last_item": [None if summary.last is None else _item(summary.last) for summary in summaries],
        },
        constants,
    )


def read_bases(rows: pa.Table, width: int) -> dict[str, Base]:
    """The base of each user of rows with the columns of `persona_vectors`, times as UTC TIMESTAMP."""
    times = {name: rows[name].cast(pa.int64()).to_pylist() for name in ("first_posted_at", "last_posted_at")}
    plain = rows.drop_columns(["vectors", "vector_scales", *times]).to_pylist()
    found = dict[str, Base]()
    for at, row in enumerate(plain):
        vectors = compact_vectors(rows["vectors"][at].values, rows["vector_scales"][at].values, width)
        last = row["last_item"]
        summary = Summary(
            vectors,
            np.array(row["counts"], np.int64),
            tuple(_key(item) for item in row["items"]),
            tuple({one["label"]: one["count"] for one in own} for own in row["label_counts"]),
            tuple(row["newest_labels"]),
            None if last is None else _key(last),
            row["items_sha256"],
        )
        found[row["user_id"]] = Base(summary, times["first_posted_at"][at], times["last_posted_at"][at])
    return found


def read_items(rows: pa.Table, width: int) -> Iterator[tuple[str, UserItems]]:
    """The items of each user.

    Args:
        rows: by user and the oldest first: user_id, kind, item_id, posted_at, label, item_sha256, vector, vector_scale.
        width: D of the vectors.
    """
    vectors = compact_vectors(rows["vector"], rows["vector_scale"], width)
    names = ("user_id", "kind", "item_id", "label", "item_sha256")
    users, kinds, item_ids, labels, sha256s = (rows[name].to_pylist() for name in names)
    times = rows["posted_at"].cast(pa.int64()).to_pylist()
    keys = list(zip(kinds, item_ids, strict=True))
    for start, stop in runs_of_equals(users):
        own = slice(start, stop)
        yield users[start], UserItems(Items(vectors[own], keys[own], labels[own], sha256s[own]), times[own])


def runs_of_equals(values: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of equal neighbours."""
    start = 0
    for at in range(1, len(values) + 1):
        if at == len(values) or values[at] != values[start]:
            yield start, at
            start = at


def _item(key: ItemKey) -> dict[str, str]:
    return {"kind": key[0], "item_id": key[1]}


def _key(item: Mapping[str, Any]) -> ItemKey:
    return item["kind"], item["item_id"]


def _counts(own: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"label": label, "count": own[label]} for label in sorted(own)]
