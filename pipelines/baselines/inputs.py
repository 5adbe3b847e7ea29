"""Encode users' items from their input alone, without what the user produced, as the authors of PPlug do.

    items ─▶ their texts ─▶ encoder ─▶ vectors in place of those of text and output

Stored vectors are of both; these are made for a comparison and kept nowhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from embedder.encoder import TextEncoder
from embedder.histories import History
from llm_jobs.kinds import Kind
from llm_jobs.tasks import PersonalTask
from llm_jobs.training.data import Tokenised
from pipelines.personas.bases import runs_of_equals
from pipelines.tables import Row


class InputVectors:
    """Everybody's items by their input."""

    def __init__(self, items: Sequence[Row], kinds: Mapping[str, Kind], encoder: TextEncoder) -> None:
        """Encode the items; those of unknown kinds are passed over, as in `examples_of`.

        Args:
            items: all items of all users, sorted by user and then by time.
            kinds: how an item becomes text.
            encoder: of the vectors.
        """
        known = [item for item in items if item["kind"] in kinds]
        users = [item["user_id"] for item in known]
        vectors = encoder.encode([kinds[item["kind"]].encoder_text(item["text"], None) for item in known])
        self._vectors = {users[start]: vectors[start:stop] for start, stop in runs_of_equals(users)}
        self._none = np.zeros((0, encoder.width), np.float32)

    def examples(self, prepared: Sequence[Tokenised]) -> list[Tokenised]:
        """The same examples with these vectors; those of a user stay beginnings of one array."""
        found: list[Tokenised] = []
        for one in prepared:
            history = self._vectors.get(one.example.user_id, self._none)[: len(one.example.history)]
            found.append(replace(one, example=replace(one.example, history=history)))
        return found

    def task(self, task: PersonalTask, user_id: str) -> PersonalTask:
        """The same task with these vectors of all the user's items, none of them merged.

        Those of its history, unless the warehouse got earlier items since the night was encoded.
        """
        return replace(task, history=History.of_items(self._vectors.get(user_id, self._none)))
