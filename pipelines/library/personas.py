"""What a plug sees of users whose items are in memory: the functions of `encode` and `generate`, without tables.

items of a user, oldest first ─▶ encode ─▶ Summary (at most max_vectors) ─▶ History
                                              outputs ─▶ labels behind ───────┘
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from embedder.compact import CompactVectors
from embedder.encoder import TextEncoder
from embedder.hashing import text_sha256
from embedder.histories import History
from embedder.personas import Items, Summary
from llm_jobs.kinds import Kind
from pipelines.personas.bases import runs_of_equals
from pipelines.personas.stored import Persona
from pipelines.tables import Row

MAX_VECTORS: Final = 128  # most vectors that stand for one user, as in `pplug encode`


class UserPersona(NamedTuple):
    """What stands for a user."""

    history: History
    items: Sequence[Row]  # the most typical item of each vector
    item_count: int  # all of the user's items

    @property
    def persona(self) -> Persona:
        """As the nights know it, with the texts."""
        named = [{"kind": item["kind"], "item_id": item["item_id"]} for item in self.items]
        return Persona(self.history, named, [(item["text"], item["output"]) for item in self.items])

    @classmethod
    def empty(cls, width: int) -> "UserPersona":
        return cls(History.empty(width), (), 0)


def personas_of(
    items: Sequence[Row], users: Collection[str], kinds: Mapping[str, Kind], encoder: TextEncoder, max_vectors: int
) -> dict[str, UserPersona]:
    """The personas of those of the users who have items.

    Args:
        items: by user, the oldest first.
        users: who is wanted.
        kinds: how an item becomes text.
        encoder: of the vectors.
        max_vectors: most vectors that stand for one user.
    """
    mine = [item for item in items if item["user_id"] in users]
    texts = [kinds[item["kind"]].encoder_text(item["text"], item["output"]) for item in mine]
    vectors = encoder.encode(texts)
    found = dict[str, UserPersona]()
    for start, stop in runs_of_equals([item["user_id"] for item in mine]):
        own = mine[start:stop]
        keys = [(item["kind"], item["item_id"]) for item in own]
        labels = [kinds[item["kind"]].label_of(item["output"]) for item in own]
        sha256s = [text_sha256(text) for text in texts[start:stop]]
        items_of_user = Items(CompactVectors.of(vectors[start:stop]), keys, labels, sha256s)
        summary = Summary.empty(encoder.width).absorb(items_of_user, max_vectors)
        by_key = dict(zip(keys, own, strict=True))
        found[own[0]["user_id"]] = UserPersona(summary.history(), [by_key[key] for key in summary.typical], len(own))
    return found
