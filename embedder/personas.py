"""Summarise a user's items: the single items while they fit, then means of similar ones.

    items, oldest first ─▶ condensed ─▶ a summary of the oldest, whenever there was one vector too many
                               └──────▶ the items since then, which stay single

The summary is a function of the items in the order given: it does not matter in how many calls they were taken in, so a
stored summary and the items that came later make the same persona as all items at once. Nothing here is random, and
similarities are products of whole numbers, so every machine merges the same items.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from embedder.compact import CompactVectors, FloatArray
from embedder.histories import NEWEST_LABELS, RECENT_ITEMS, History, PastLabels

IntArray = NDArray[np.int64]
ItemKey = tuple[str, str]  # kind and item_id

PERSONA_VERSION = 2
"""Another number wherever the same items would give other vectors: a night stands on none of another version."""

LLOYD_ROUNDS = 8  # most k-means rounds; it ends before when none moves an item


@dataclass(frozen=True, eq=False)
class Items:
    """n items of a user, oldest first."""

    vectors: CompactVectors  # of unit length up to rounding
    keys: Sequence[ItemKey]
    labels: Sequence[str | None]  # what the user chose for each; None for an item without a label
    sha256s: Sequence[str]  # of what the encoder read

    @classmethod
    def of(cls, vectors: FloatArray, labels: Sequence[str | None] = ()) -> Self:
        """Items that are named by their numbers; no labels: none."""
        names = [str(at) for at in range(len(vectors))]
        return cls(CompactVectors.of(vectors), [("", name) for name in names], labels or [None] * len(names), names)

    def __len__(self) -> int:
        return len(self.keys)

    def __add__(self, newer: "Items") -> "Items":
        return Items(
            CompactVectors.concatenate([self.vectors, newer.vectors]),
            [*self.keys, *newer.keys],
            [*self.labels, *newer.labels],
            [*self.sha256s, *newer.sha256s],
        )

    def __getitem__(self, part: slice) -> "Items":
        return Items(self.vectors[part], self.keys[part], self.labels[part], self.sha256s[part])


@dataclass(frozen=True, eq=False)
class Summary:
    """What stands for some items of one user."""

    vectors: CompactVectors  # m vectors of width D: items, or means of similar ones
    counts: IntArray  # (m,) items behind each vector
    typical: tuple[ItemKey, ...]  # (m,) the item that stands for each vector
    labels: tuple[Mapping[str, int], ...]
    """(m,) how many of the items behind each vector have a label, by label."""
    newest_labels: tuple[str, ...]
    """Labels of the newest items that have one, oldest first; at most NEWEST_LABELS."""
    last: ItemKey | None  # the newest item
    items_sha256: str  # of the keys and hashes of all items, in their order; empty for none

    @classmethod
    def empty(cls, width: int) -> Self:
        return cls(CompactVectors.empty(width), np.zeros(0, np.int64), (), (), (), None, "")

    @property
    def item_count(self) -> int:
        """How many items it stands for."""
        return int(self.counts.sum())

    @property
    def mean(self) -> FloatArray:
        """(D,) unit mean of all items; see `unit_mean`."""
        return unit_mean(self.vectors, self.counts)

    def history(self) -> History:
        past = PastLabels.of(self.labels, self.counts.tolist(), self.newest_labels)
        return History.of(self.vectors.floats(), self.counts.astype(np.float32), past)

    def condensed(self, items: Items, max_vectors: int) -> tuple["Summary", int]:
        """Take in the oldest of items, which are newer than all before, each time that there is a vector too many.

        Args:
            items: any number.
            max_vectors: most vectors that a summary and the items not in it may have, >= 1; the same in every call.

        Returns:
            What they became, and how many they are; the other items stay single.
        """
        summary, start = self, 0
        while len(summary.counts) + len(items) - start > max_vectors:
            stop = start + max_vectors + 1 - len(summary.counts)
            summary = summary.with_items(items[start:stop])._halved(max_vectors)
            start = stop
        return summary, start

    def absorb(self, items: Items, max_vectors: int) -> "Summary":
        """Take in all of some items that are newer than all before, merging what is too much."""
        base, taken = self.condensed(items, max_vectors)
        return base.with_items(items[taken:])

    def with_items(self, items: Items) -> "Summary":
        """Add single items that are newer than all before."""
        digest = self.items_sha256
        for (kind, item_id), sha256 in zip(items.keys, items.sha256s, strict=True):
            digest = hashlib.sha256("\0".join((digest, kind, item_id, sha256)).encode()).hexdigest()
        own = tuple(label for label in items.labels if label is not None)
        return Summary(
            CompactVectors.concatenate([self.vectors, items.vectors]),
            np.concatenate([self.counts, np.ones(len(items), np.int64)]),
            (*self.typical, *items.keys),
            (*self.labels, *({} if label is None else {label: 1} for label in items.labels)),
            (*self.newest_labels, *own)[-NEWEST_LABELS:],
            items.keys[-1] if len(items) else self.last,
            digest,
        )

    def in_groups(self, least: int) -> "Summary":
        """Merge until every vector stands for at least `least` items, the newest ones in their order; nothing of fewer.

        A function of the summary alone, like everything here.
        """
        if self.item_count < least:
            return Summary.empty(self.vectors.width)
        if not len(self.counts) or self.counts.min() >= least:
            return self
        starts = _newest_runs(self.counts, least)
        old = np.arange(starts[0])
        groups = likely_groups(self.vectors[old], self.counts[old], least) if len(old) else old
        runs = np.searchsorted(starts, np.arange(starts[0], len(self.counts)), side="right")
        return self._merged(np.concatenate([groups, groups.max(initial=-1) + runs]))

    def _halved(self, max_vectors: int) -> "Summary":
        """Merge all but the newest items, so that `RECENT_ITEMS` stay apart where there is room for them."""
        apart = min(RECENT_ITEMS, max_vectors // 4)
        old = np.arange(len(self.counts) - apart)
        return self._merged(k_means(self.vectors[old], self.counts[old], max(1, max_vectors // 2 - apart)))

    def _merged(self, groups: IntArray) -> "Summary":
        """Merge the first vectors (m,), each in the group named for it; those behind them stay apart."""
        old = np.arange(len(groups))
        merged = merge(self.vectors[old], self.counts[old], groups)
        labels = tuple(sum((Counter(self.labels[at]) for at in own), Counter[str]()) for own in merged.members)
        return Summary(
            CompactVectors.concatenate([merged.vectors, self.vectors[len(old) :]]),
            np.concatenate([merged.counts, self.counts[len(old) :]]),
            (*(self.typical[at] for at in merged.typical), *self.typical[len(old) :]),
            (*labels, *self.labels[len(old) :]),
            self.newest_labels,
            self.last,
            self.items_sha256,
        )


def unit_mean(vectors: CompactVectors, counts: IntArray) -> FloatArray:
    """(D,) mean of vectors, each counted so many times, of unit length.

    Vectors that cancel out have no direction: then it is the first axis, as good as any.
    """
    total = (counts * vectors.scales.astype(np.float64)) @ vectors.codes
    norm = np.linalg.norm(total)
    mean = total / norm if norm > 1e-6 * counts.sum() else np.eye(1, vectors.width)[0]
    return mean.astype(np.float32)


class Merged(NamedTuple):
    """Vectors that stand for groups of similar ones."""

    vectors: CompactVectors
    counts: IntArray  # items behind each
    typical: IntArray  # which of the vectors that were merged is nearest to each
    members: Sequence[IntArray]  # which of the vectors that were merged are in each


def merge(vectors: CompactVectors, counts: IntArray, groups: IntArray) -> Merged:
    """Replace groups of vectors by means that weigh each vector by its items.

    The means are not scaled back to unit length: to first order, `counts * exp(q . mean)` is then what the group's
    items would weigh one by one.

    Args:
        vectors: m vectors.
        counts: (m,) items behind each.
        groups: (m,) the group of each; in their order the means come.
    """
    weighted = vectors.floats().astype(np.float64) * counts[:, None]
    means, sizes = _means(weighted, counts, groups)
    own = np.unique(groups, return_inverse=True)[1]
    nearness = _nearness(vectors, means)[np.arange(len(own)), own] - 0.5 * vectors.squares
    order = np.lexsort((np.arange(len(own)), -nearness, own))
    starts = np.flatnonzero(np.r_[True, np.diff(own[order]) > 0])
    return Merged(means, sizes, order[starts], np.split(order, starts[1:]))


def k_means(vectors: CompactVectors, counts: IntArray, most: int) -> IntArray:
    """(m,) the group of each of m vectors, at most `most` groups of similar ones; `counts` (m,) items behind each."""
    weighted = vectors.floats().astype(np.float64) * counts[:, None]
    centres = vectors[_spread(vectors, _means(weighted, counts, np.zeros(len(counts), np.int64))[0], most)]
    groups = _nearness(vectors, centres).argmax(axis=1)
    for _ in range(LLOYD_ROUNDS):
        centres, before = _means(weighted, counts, groups)[0], groups
        groups = _nearness(vectors, centres).argmax(axis=1)
        if np.array_equal(groups, before):
            break
    return groups


def likely_groups(vectors: CompactVectors, counts: IntArray, least: int) -> IntArray:
    """(m,) groups of similar vectors with at least `least` items each, or one group: small ones join the nearest."""
    weighted = vectors.floats().astype(np.float64) * counts[:, None]
    groups = k_means(vectors, counts, max(1, int(counts.sum()) // least))
    while True:
        groups = np.unique(groups, return_inverse=True)[1]
        means, sizes = _means(weighted, counts, groups)
        if sizes.min() >= least or len(sizes) == 1:
            return groups
        small = int(np.argmin(sizes))
        nearness = _nearness(means[np.array([small])], means)[0]
        nearness[small] = -np.inf
        groups[groups == small] = int(np.argmax(nearness))


def _newest_runs(counts: IntArray, least: int) -> list[int]:
    """Where runs of the newest vectors begin, each of at least `least` items, the oldest run first.

    As many as hold `RECENT_ITEMS`; fewer older items than `least` join the oldest run.
    """
    starts, inside, covered = list[int](), 0, 0
    for at in reversed(range(len(counts))):
        inside += int(counts[at])
        if inside >= least:
            starts.append(at)
            inside, covered = 0, covered + inside
            if covered >= RECENT_ITEMS:
                break
    if counts[: starts[-1]].sum() < least:
        starts[-1] = 0
    return starts[::-1]


def _spread(vectors: CompactVectors, mean: CompactVectors, most: int) -> IntArray:
    """Farthest-first traversal by cosine (Gonzalez 1985) from the vector nearest to the mean; ties go to the first."""
    norms = np.sqrt(np.maximum(1, vectors.code_squares))
    chosen = [int(np.argmax(vectors.products(mean)[:, 0] / norms))]
    cosines = vectors.products(vectors) / norms / norms[:, None]
    nearest = cosines[chosen[0]]
    while len(chosen) < min(most, len(vectors)):
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, cosines[chosen[-1]])
    return np.array(chosen)


def _nearness(vectors: CompactVectors, centres: CompactVectors) -> NDArray[np.float64]:
    """(n, m) what is the larger, the smaller the squared distance of a vector to a centre."""
    scales = vectors.scales.astype(np.float64)[:, None] * centres.scales.astype(np.float64)
    return vectors.products(centres) * scales - 0.5 * centres.squares


def _means(weighted: NDArray[np.float64], counts: IntArray, groups: IntArray) -> tuple[CompactVectors, IntArray]:
    """Mean of the items of each group that has any, and how many they are."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) > 0])
    sizes = np.add.reduceat(counts[order], starts)
    return CompactVectors.of(np.add.reduceat(weighted[order], starts, axis=0) / sizes[:, None]), sizes
