"""What stored vectors keep to themselves: how many items each stands for at least, and how much noise is in them.

    vector of an item ─▶ noise, drawn under the warehouse's key ─▶ as it is stored
    vectors of a user ─▶ groups of at least `min_items` items (embedder/personas.py) ─▶ persona

The noise of an item depends on the key, the item and its text alone, so nights that add to each other and one full
night store the same numbers. It is the same in every night: reading a table often does not average it away.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedder.compact import FloatArray
from embedder.errors import UsageError
from embedder.hashing import text_sha256
from pipelines.erasure.user_key import UserKey, made_key, read_key
from pipelines.tables.warehouse import Warehouse


@dataclass(frozen=True)
class Protection:
    """How vectors are protected before they are stored."""

    min_items: int = 1  # no stored vector stands for fewer items; users with fewer have no persona
    item_vectors: bool = True
    """Keep a vector of each item, so that a night encodes only what changed; only possible while `min_items` is 1."""
    noise: float = 0.0  # length of the noise that is added to an item's vector, which has length one

    def __post_init__(self) -> None:
        if self.min_items < 1 or not 0 <= self.noise < float("inf"):
            raise UsageError(f"--min-items-per-vector {self.min_items} and --noise {self.noise}: 1 or more, 0 or more")

    @property
    def keeps_items(self) -> bool:
        """Whether single items have a vector in `history_vectors`."""
        return self.item_vectors and self.min_items == 1

    @property
    def is_on(self) -> bool:
        return not self.keeps_items or self.noise > 0

    def of(self, warehouse: Warehouse, *, is_plan: bool = False) -> "Protector":
        """The protection under the key of a warehouse; it is made if there is none, but not for a plan."""
        if not self.is_on:
            return Protector(self, None)
        return Protector(self, read_key(warehouse) or UserKey(b"") if is_plan else made_key(warehouse))


class Protector(NamedTuple):
    """A protection with the key that it works under."""

    protection: Protection
    key: UserKey | None  # none where nothing is protected

    @property
    def settings(self) -> Mapping[str, Any]:
        """What tells two protections apart."""
        return asdict(self.protection) | ({"key_check": self.key.check} if self.key else {})

    def sha256(self, text: str) -> str:
        """What names a text: under a key a hash that nobody can guess texts by, and another for another protection."""
        if self.key is None:
            return text_sha256(text)
        return self.key.hash(json.dumps(["text", self.settings, text], sort_keys=True))

    def noisy(self, vectors: FloatArray, names: Sequence[tuple[str, ...]]) -> FloatArray:
        """Add noise to unit vectors (n, D), each under its own name, and make them unit vectors again."""
        if self.key is None or not self.protection.noise or not len(vectors):
            return vectors
        drawn = np.stack([_normal(self.key, name, vectors.shape[1]) for name in names])
        mixed = vectors + self.protection.noise / np.sqrt(vectors.shape[1]) * drawn
        return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


def _normal(key: UserKey, name: tuple[str, ...], width: int) -> NDArray[np.float64]:
    """(D,) standard normal numbers that nobody without the key can tell (Box and Muller 1958)."""
    seed = key.hash(json.dumps(["noise", *name]))
    bits = np.frombuffer(hashlib.shake_256(seed.encode()).digest(16 * width), "<u8").reshape(2, width)
    first, second = ((bits >> np.uint64(11)) + 1) / 2.0**53
    return np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
