"""Tell users by what sets them apart from others who wrote about the like, after DEP (arXiv 2507.20849).

    item ─▶ the nearest items of other users ─▶ item less their mean ─┐
    item ─────────────────────────────────────────────────────────────┴─▶ one vector, twice as wide

The plug reads these vectors in place of the items', and is trained through the LLM. Nothing here is of their sparse
autoencoder; and peers, who in DEP wrote about the very same product, are those whose items are nearest.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from embedder.compact import FloatArray
from embedder.histories import History
from llm_jobs.tasks import PersonalTask
from llm_jobs.training.data import Tokenised

PEERS = 4
"""Items of others that an item is compared with."""

AT_ONCE = 512
"""Items whose peers are looked for together: with 100,000 items of others, 200 MB of cosines."""


class Peers:
    """Everybody's items that differences are taken to."""

    def __init__(self, prepared: Sequence[Tokenised]) -> None:
        """Take the longest history of each user."""
        longest = {one.example.user_id: one.example.history for one in sorted(prepared, key=history_length)}
        self._vectors = np.concatenate([*longest.values()])
        self._users = np.repeat([*longest], [len(history) for history in longest.values()])
        self._widened = {user: self._beside(user, history) for user, history in longest.items()}

    def examples(self, prepared: Sequence[Tokenised]) -> list[Tokenised]:
        """The same examples with wider vectors; those of a user stay beginnings of one array."""
        found: list[Tokenised] = []
        for one in prepared:
            example = one.example
            history = self._widened[example.user_id][: len(example.history)]
            found.append(replace(one, example=replace(example, task=beside_zeros(example.task), history=history)))
        return found

    def task(self, task: PersonalTask, user_id: str) -> PersonalTask:
        """The same task with wider vectors."""
        wide = self._beside(user_id, task.history.vectors)
        return replace(
            task, task=beside_zeros(task.task), history=History.of(wide, task.history.counts, task.history.past)
        )

    def _beside(self, user_id: str, vectors: FloatArray) -> FloatArray:
        """(n, 2 D) vectors (n, D), each with its difference to its peers beside it."""
        others = self._vectors[self._users != user_id]
        if not len(others) or not len(vectors):
            return np.concatenate([vectors, np.zeros_like(vectors)], axis=1)
        count, peers = min(PEERS, len(others)), np.empty_like(vectors)
        for rows in np.array_split(np.arange(len(vectors)), 1 + len(vectors) // AT_ONCE):
            nearest = np.argpartition(-(vectors[rows] @ others.T), count - 1, axis=1)[:, :count]
            peers[rows] = others[nearest].mean(1)
        return np.concatenate([vectors, vectors - peers], axis=1)


def history_length(one: Tokenised) -> int:
    """Items before an example."""
    return len(one.example.history)


def beside_zeros(task: FloatArray) -> FloatArray:
    """(2 D,) a task's vector (D,), which has no difference to anybody."""
    return np.concatenate([task, np.zeros_like(task)])
