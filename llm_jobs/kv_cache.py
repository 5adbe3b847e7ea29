"""Keys and values of the tokens a causal LLM has read: of one prompt (Prefix) and of a batch (KVCache).

    Prefix   ░░░░░░          one prompt up to the soft prompt, without padding
    KVCache  ░░░░░░▒▒▒··     rows of a batch: prefixes and the tokens appended since
             ░░░▒▒▒·····     the token at position p of a row is in its slot p, whatever the other rows hold

So a row adds the same numbers in the same order in any batch; in bfloat16 its tokens would else change with the batch.
Shapes: L layers, B rows, H key/value heads, N slots, D head width, Q new tokens per row, K slots that are looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SLOTS = 64
"""K is a multiple of it: the processor adds numbers in groups of up to 64, and a ragged last group in another order."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """What a causal LLM keeps of the tokens before the soft prompt."""

    keys_values: Tensor
    """(L, 2, H, tokens, D), in the LLM's dtype."""

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.keys_values.nbytes

    @property
    def length(self) -> int:
        """Tokens read."""
        return self.keys_values.shape[3]


@dataclass(eq=False)
class KVCache:
    """Preallocated keys and values of a batch; forward passes append to it."""

    store: Tensor
    """(L, 2, B, H, N, D); slots that hold no token are finite."""
    lengths: Tensor
    """(B,) tokens of each row, which is the position of its next token."""
    longest: int
    """At least the greatest of `lengths`, known without asking the device."""

    @classmethod
    def of(cls, prefixes: Sequence[Prefix], room: int) -> "KVCache":
        """A cache that starts with one prefix per row and has `room` more slots."""
        like = prefixes[0].keys_values
        layers, _, heads, _, width = like.shape
        lengths = [prefix.length for prefix in prefixes]
        slots = -(-(max(lengths) + room) // SLOTS) * SLOTS
        store = like.new_zeros(layers, 2, len(prefixes), heads, slots, width)
        for row, prefix in enumerate(prefixes):
            store[:, :, row, :, : prefix.length] = prefix.keys_values
        return cls(store, torch.tensor(lengths, device=like.device), max(lengths))

    def next_slots(self, count: int) -> Tensor:
        """Slots, and positions, of each row's next tokens (B, count)."""
        return self.lengths[:, None] + torch.arange(count, device=self.lengths.device)

    def seen_slots(self, count: int) -> int:
        """K: slots to look at once `count` more tokens per row are written."""
        return -(-(self.longest + count) // SLOTS) * SLOTS

    def causal_mask(self, count: int) -> Tensor:
        """(B, Q, K), true in the slots up to each new token's own."""
        slots = torch.arange(self.seen_slots(count), device=self.lengths.device)
        return slots <= self.next_slots(count)[:, :, None]

    def append(self, counts: Tensor, width: int) -> None:
        """Take note of new tokens: the first counts[row] of `width` that were written.

        What was written behind them is overwritten before anything looks at it.
        """
        self.lengths = self.lengths + counts
        self.longest += width

    def rows(self, index: Tensor) -> "KVCache":
        """A copy with these rows only."""
        lengths = self.lengths[index]
        return KVCache(self.store[:, :, index], lengths, int(lengths.max()))

    def prefix(self, row: int, length: int) -> Prefix:
        """A copy of the first `length` tokens of a row."""
        return Prefix(self.store[:, :, row, :, :length].clone())
