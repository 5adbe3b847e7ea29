"""Summarise a user's item vectors: the single items while they fit, then means of similar ones.

    items, oldest first ─▶ absorb ─▶ at most max_vectors vectors (m, D), the newest of them single items
                             └─ when one too many: all but the newest are merged into half as many

The summary is a function of the items in the order given: it does not matter in how many calls they were absorbed, so a
stored summary and the items that came later make the same persona as all items at once. Nothing here is random, and
similarities are products of whole numbers, so every machine merges the same items.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from embedder.compact import CompactVectors, FloatArray
from embedder.histories import RECENT_ITEMS

IntArray = NDArray[np.int64]

LLOYD_ROUNDS = 8
"""Most k-means rounds; it ends before when none moves an item."""


@dataclass(frozen=True, eq=False)
class Summary:
    """What stands for the items of one user that were absorbed so far."""

    vectors: CompactVectors
    """m vectors of width D: items, or means of similar ones."""
    counts: IntArray
    """(m,) items behind each vector."""
    typical: IntArray
    """(m,) number of the item that stands for each vector, counted from the first item ever absorbed."""
    total: FloatArray
    """(D,) sum of all item vectors."""

    @classmethod
    def empty(cls, width: int) -> Self:
        """That of no items."""
        none = np.zeros(0, np.int64)
        return cls(CompactVectors.empty(width), none, none, np.zeros(width, np.float32))

    @property
    def item_count(self) -> int:
        """How many items were absorbed."""
        return int(self.counts.sum())

    @property
    def mean(self) -> FloatArray:
        """(D,) unit mean of all item vectors; of vectors that cancel out, which have no direction, the first vector."""
        norm = np.linalg.norm(self.total)
        first = self.vectors.floats()[:1].reshape(-1)
        return (
            (self.total / norm).astype(np.float32) if norm > 1e-6 * max(1, self.item_count) or not len(first) else first
        )

    def absorb(self, vectors: CompactVectors, max_vectors: int) -> "Summary":
        """Add items, the oldest first, which are newer than all before.

        Args:
            vectors: of the items, each of unit length up to rounding.
            max_vectors: most vectors that the summary may have, >= 1; the same in every call.
        """
        summary, start = self, 0
        while start < len(vectors):
            stop = min(len(vectors), start + max_vectors + 1 - len(summary.counts))
            summary = summary._with(vectors[start:stop])
            if len(summary.counts) > max_vectors:
                summary = summary._halved(max_vectors)
            start = stop
        return summary

    def _with(self, items: CompactVectors) -> "Summary":
        numbers = np.arange(self.item_count, self.item_count + len(items))
        return Summary(
            CompactVectors.concatenate([self.vectors, items]),
            np.concatenate([self.counts, np.ones(len(items), np.int64)]),
            np.concatenate([self.typical, numbers]),
            # item by item, so that the rounding does not depend on how many come at once
            np.add.accumulate(np.concatenate([self.total[None], items.floats()]), axis=0)[-1],
        )

    def _halved(self, max_vectors: int) -> "Summary":
        """Merge all but the newest items, so that `RECENT_ITEMS` stay apart where there is room for them."""
        apart = min(RECENT_ITEMS, max_vectors // 4)
        old = np.arange(len(self.counts) - apart)
        merged, counts, typical = merge(self.vectors[old], self.counts[old], max(1, max_vectors // 2 - apart))
        return Summary(
            CompactVectors.concatenate([merged, self.vectors[len(old) :]]),
            np.concatenate([counts, self.counts[len(old) :]]),
            np.concatenate([self.typical[typical], self.typical[len(old) :]]),
            self.total,
        )


def summarise(vectors: FloatArray, max_vectors: int) -> Summary:
    """Summarise all items of a user: (n, D) unit vectors, oldest first, n >= 0."""
    return Summary.empty(vectors.shape[1]).absorb(CompactVectors.of(vectors), max_vectors)


def merge(vectors: CompactVectors, counts: IntArray, most: int) -> tuple[CompactVectors, IntArray, IntArray]:
    """Merge similar vectors by k-means, whose means weigh each vector by its items.

    The means are not scaled back to unit length: to first order, `counts * exp(q . mean)` is then what the group's
    items would weigh one by one.

    Args:
        vectors: m vectors.
        counts: (m,) items behind each.
        most: how many may be left, at least 1.

    Returns:
        The means, the items behind each, and which of `vectors` is nearest to each mean.
    """
    weighted = vectors.floats().astype(np.float64) * counts[:, None]
    centres = vectors[_spread(vectors, _means(weighted, counts, np.zeros(len(counts), np.int64))[0], most)]
    groups = _nearness(vectors, centres).argmax(axis=1)
    for _ in range(LLOYD_ROUNDS):
        centres, before = _means(weighted, counts, groups)[0], groups
        groups = _nearness(vectors, centres).argmax(axis=1)
        if np.array_equal(groups, before):
            break
    means, sizes = _means(weighted, counts, groups)
    own = np.unique(groups, return_inverse=True)[1]
    nearness = _nearness(vectors, means)[np.arange(len(own)), own] - 0.5 * vectors.squares
    order = np.lexsort((np.arange(len(own)), -nearness, own))
    return means, sizes, order[np.flatnonzero(np.r_[True, np.diff(own[order]) > 0])]


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
