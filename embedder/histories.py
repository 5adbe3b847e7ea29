"""What a plug sees of a user: some weighted vectors, and the mean of the newest items.

item vectors, oldest first ─▶ recent_mean ─┐
vectors and counts of a persona ───────────┴─▶ History ─▶ pad_histories ─▶ tensors of many users
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from embedder.compact import FloatArray

RECENT_ITEMS = 10
"""Newest items behind `recent`: what a user does changes (docs/experiments.md, 2026-11-26)."""


class History(NamedTuple):
    """One user, D = encoder width."""

    vectors: FloatArray
    """(n, D) vectors of items, or means of similar ones; n is 0 for a user without a history."""
    counts: FloatArray
    """(n,) items behind each vector."""
    recent: FloatArray
    """(D,) mean of the newest items' vectors; 0 without a history."""

    @classmethod
    def of(cls, vectors: FloatArray, counts: FloatArray) -> Self:
        """A history of vectors (n, D) that are in order, oldest first, and the items (n,) behind each."""
        return cls(vectors, counts, recent_mean(vectors, counts))

    @classmethod
    def of_items(cls, vectors: FloatArray) -> Self:
        """A history of single items, whose vectors (n, D) are in order, oldest first."""
        return cls.of(vectors, np.ones(len(vectors), np.float32))

    @classmethod
    def empty(cls, width: int) -> Self:
        """That of a user without one."""
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
    """Stack histories of different lengths.

    Args:
        histories: of B users.
        width: D, known even if there is no user.

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
