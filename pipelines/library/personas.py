"""What a plug sees of users whose items are in memory: the functions of `encode` and `generate`, without tables.

items of a user, oldest first ─▶ encode ─▶ Summary (at most max_vectors) ─▶ History
                                              outputs ─▶ labels behind ───────┘
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from embedder.compact import CompactVectors, FloatArray
from embedder.encoder import TextEncoder
from embedder.histories import History
from embedder.personas import Summary
from llm_jobs.kinds import Kind
from pipelines.examples import Row
from pipelines.personas.past_labels import LabelledItem, labels_behind
from pipelines.personas.persona_table import runs_of_equals

MAX_VECTORS: Final = 128
"""Most vectors that stand for one user, as in `pplug encode`."""


class Persona(NamedTuple):
    """What stands for a user."""

    history: History
    items: Sequence[Row]
    """The most typical item of each vector."""
    item_count: int
    """All of the user's items."""

    @classmethod
    def empty(cls, width: int) -> "Persona":
        """That of a user without a history."""
        return cls(History.empty(width), (), 0)


def personas_of(
    items: Sequence[Row], users: Collection[str], kinds: Mapping[str, Kind], encoder: TextEncoder, max_vectors: int
) -> dict[str, Persona]:
    """The personas of those of the users who have items.

    Args:
        items: by user, the oldest first.
        users: who is wanted.
        kinds: how an item becomes text.
        encoder: of the vectors.
        max_vectors: most vectors that stand for one user.
    """
    mine = [item for item in items if item["user_id"] in users]
    vectors = encoder.encode([kinds[item["kind"]].encoder_text(item["text"], item["output"]) for item in mine])
    return {
        mine[start]["user_id"]: persona_of(mine[start:stop], vectors[start:stop], max_vectors)
        for start, stop in runs_of_equals([item["user_id"] for item in mine])
    }


def persona_of(items: Sequence[Row], vectors: FloatArray, max_vectors: int) -> Persona:
    """The persona of one user's items (n), whose vectors (n, D) are of unit length."""
    compact = CompactVectors.of(vectors)
    summary = Summary.empty(compact.width).absorb(compact, max_vectors)
    is_merged = len(summary.counts) < len(items)
    codes = compact.codes.astype(np.float32)
    labelled = [
        LabelledItem((item["kind"], item["item_id"]), item["output"], codes[at] if is_merged else None)
        for at, item in enumerate(items)
    ]
    typical = [items[at] for at in summary.typical]
    floats = summary.vectors.floats()
    past = labels_behind(floats, typical, labelled)
    return Persona(History.of(floats, summary.counts.astype(np.float32), past), typical, len(items))
