"""What a plug sees of a user: weighted vectors, the mean of the newest items, and what the user produced for them.

item vectors, oldest first ─▶ recent_mean ─┐
vectors and counts of a persona ───────────┼─▶ History ─▶ pad_histories ─▶ tensors of many users
outputs of the items ──────▶ PastLabels ───┘         └──▶ label_evidence (evidence.py)
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from embedder.compact import FloatArray

RECENT_ITEMS = 10  # newest items behind `recent`: what a user does changes (docs/experiments.md, 2026-11-26)
NEWEST_LABELS = 30  # newest items whose labels are kept in order (docs/experiments.md, 2026-11-28)


class PastLabels(NamedTuple):
    """What a user produced for the items behind n vectors; K = the user's different outputs."""

    names: tuple[str, ...]  # (K,) the different outputs
    shares: FloatArray
    """(n, K) share of each output among the items behind a vector; rows of items without an output sum to less."""
    newest: tuple[int, ...]
    """Places in `names` of the newest items with an output, oldest first; at most NEWEST_LABELS."""

    @classmethod
    def of(cls, counted: Sequence[Mapping[str, int]], sizes: Sequence[int], newest: Sequence[str]) -> Self:
        """Those of n vectors: how many of the items (n,) behind each have an output, by output, and the newest ones."""
        names = tuple(dict.fromkeys([*(name for own in counted for name in sorted(own)), *newest]))
        places = {name: place for place, name in enumerate(names)}
        shares = np.zeros((len(counted), len(names)), np.float32)
        for row, own in enumerate(counted):
            for name, count in own.items():
                shares[row, places[name]] = count / sizes[row]
        return cls(names, shares, tuple(places[name] for name in newest[-NEWEST_LABELS:]))

    @classmethod
    def of_items(cls, outputs: Sequence[str | None]) -> Self:
        """Those of single items, oldest first; None for an item without an output."""
        counted = [{} if output is None else {output: 1} for output in outputs]
        return cls.of(counted, [1] * len(outputs), [output for output in outputs if output is not None])


class History(NamedTuple):
    """One user, D = encoder width."""

    vectors: FloatArray
    """(n, D) vectors of items, or means of similar ones; n is 0 for a user without a history."""
    counts: FloatArray  # (n,) items behind each vector
    recent: FloatArray  # (D,) mean of the newest items' vectors; 0 without a history
    past: PastLabels  # what the user produced for these items

    @classmethod
    def of(cls, vectors: FloatArray, counts: FloatArray, past: PastLabels | None = None) -> Self:
        """A history of vectors (n, D) that are in order, oldest first, the items (n,) behind each, and their labels."""
        known = PastLabels.of_items([None] * len(vectors)) if past is None else past
        return cls(vectors, counts, recent_mean(vectors, counts), known)

    @classmethod
    def of_items(cls, vectors: FloatArray, outputs: Sequence[str | None] = ()) -> Self:
        """A history of single items, whose vectors (n, D) and outputs are in order, oldest first; no outputs: none."""
        past = PastLabels.of_items(outputs) if outputs else None
        return cls.of(vectors, np.ones(len(vectors), np.float32), past)

    @classmethod
    def empty(cls, width: int) -> Self:
        return cls.of_items(np.zeros((0, width), np.float32))


def recent_mean(vectors: FloatArray, counts: FloatArray) -> FloatArray:
    """(D,) mean of the newest RECENT_ITEMS items, or of as many as there are; 0 without any.

    Args:
        vectors: (n, D) in order, oldest first.
        counts: (n,) items behind each; where the last that is needed stands for more, it counts for what is needed.
    """
    last, sizes = vectors[-RECENT_ITEMS:], counts[-RECENT_ITEMS:]
    newer = np.cumsum(sizes[::-1])[::-1] - sizes  # items behind later vectors
    shares = np.clip(RECENT_ITEMS - newer, 0, sizes).astype(np.float32)
    return shares @ last / np.float32(max(1, shares.sum()))


def pad_histories(histories: Sequence[History], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Stack the histories of B users; D is `width`, known even if there is no user.

    Returns:
        Vectors (B, H, D), counts (B, H) and recent means (B, D), float32, H the longest n; 0 in vectors and counts
        marks padding.
    """
    longest = max((len(history.vectors) for history in histories), default=0)
    padded = np.zeros((len(histories), longest, width), np.float32)
    sizes = np.zeros((len(histories), longest), np.float32)
    recent = np.zeros((len(histories), width), np.float32)
    for row, history in enumerate(histories):
        padded[row, : len(history.vectors)] = history.vectors
        sizes[row, : len(history.counts)] = history.counts
        recent[row] = history.recent
    return torch.from_numpy(padded), torch.from_numpy(sizes), torch.from_numpy(recent)
