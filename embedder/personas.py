"""Summarise the vectors of a user's items: one unit mean, and at most `max_vectors` weighted vectors.

    item vectors (n, d) ─┬─▶ mean      (d,)          unit mean of all items
                         └─▶ vectors   (m, d)        m = n while they fit, else m <= max_vectors
                             counts    (m,)          items behind each vector; they sum to n
                             typical   (m,)          index of the item nearest to each vector

The result is a function of the set of items alone: callers pass the items in key order, and nothing here is random.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

LLOYD_ROUNDS = 8
"""k-means rounds. Measured on 82 authors of news: the ninth would move 0.3% of the items, the first moves 4 to 6%."""

ROWS_AT_A_TIME = 4096
"""Items whose copies and products are held at a time: what a user of any size needs beyond the vectors themselves."""


@dataclass(frozen=True, eq=False)
class Persona:
    """What `persona_vectors` holds of one user, apart from the names of the items."""

    mean: FloatArray
    """(d,) unit mean of all item vectors."""
    vectors: FloatArray
    """(m, d) item vectors, or means of similar ones."""
    counts: IntArray
    """(m,) items behind each vector."""
    typical: IntArray
    """(m,) index of the most typical item of each vector."""


def summarise(vectors: FloatArray, max_vectors: int) -> Persona:
    """Build the persona of one user.

    Args:
        vectors: (n, d) unit vectors of all the user's items in key order, n >= 1.
        max_vectors: how many vectors may be kept, >= 1.
    """
    if len(vectors) <= max_vectors:
        each = np.arange(len(vectors))
        return Persona(_unit_mean(vectors), vectors, np.ones(len(vectors), np.int64), each)
    centres = _spread_centres(vectors, max_vectors)
    for _ in range(LLOYD_ROUNDS):
        centres = _means(vectors, _nearest(vectors, centres), len(centres))[0]
    groups = _nearest(vectors, centres)
    merged, counts = _means(vectors, groups, len(centres))
    return Persona(_unit_mean(vectors), merged, counts, _typical(vectors, groups, merged))


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + ROWS_AT_A_TIME) for start in range(0, count, ROWS_AT_A_TIME))


def _unit_mean(vectors: FloatArray) -> FloatArray:
    mean = vectors.sum(axis=0, dtype=np.float64)
    norm = np.linalg.norm(mean)
    # Vectors that cancel out have no direction: the first item then stands for the user.
    return (mean / norm if norm > 1e-9 else vectors[0]).astype(np.float32)


def _spread_centres(vectors: FloatArray, count: int) -> FloatArray:
    """Farthest-first traversal (Gonzalez 1985) from the item nearest to the mean; ties go to the first in key order."""
    chosen = [int(np.argmax(vectors @ _unit_mean(vectors)))]
    nearest = vectors @ vectors[chosen[0]]
    while len(chosen) < count:
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
    return vectors[chosen]


def _nearest(vectors: FloatArray, centres: FloatArray) -> IntArray:
    """(n,) index of the centre with the least squared distance, for unit `vectors`."""
    half_norms = 0.5 * (centres * centres).sum(axis=1)
    return np.concatenate([np.argmax(vectors[rows] @ centres.T - half_norms, axis=1) for rows in _blocks(len(vectors))])


def _means(vectors: FloatArray, groups: IntArray, count: int) -> tuple[FloatArray, IntArray]:
    """Mean and size of each of `count` groups; groups that lost all their items are gone.

    The means are not scaled back to unit length: to first order, `counts * exp(q . mean)` is then what the
    group's items would weigh one by one.
    """
    sums = np.zeros((count, vectors.shape[1]))
    for rows in _blocks(len(vectors)):
        is_in = groups[rows] == np.arange(count)[:, None]  # (count, rows)
        sums += is_in.astype(np.float64) @ vectors[rows].astype(np.float64)
    counts = np.bincount(groups, minlength=count)
    kept = counts > 0
    return (sums[kept] / counts[kept, None]).astype(np.float32), counts[kept]


def _typical(vectors: FloatArray, groups: IntArray, means: FloatArray) -> IntArray:
    """(m,) index of the member with the largest inner product with its group's mean."""
    own = np.unique(groups, return_inverse=True)[1]
    nearness = np.concatenate(
        [np.einsum("nd,nd->n", vectors[rows], means[own[rows]]) for rows in _blocks(len(vectors))]
    )
    order = np.lexsort((np.arange(len(own)), -nearness, own))
    return order[np.flatnonzero(np.r_[True, np.diff(own[order]) > 0])]
