"""Keys and values of the tokens a causal LLM has read: of one prompt (Prefix) and of a batch (KVCache).

    Prefix   ░░░░░░          one prompt up to the soft prompt, without padding
    KVCache  ░░░░░░··▒▒▒     rows of a batch: prefixes, unused slots, tokens appended since
             ░░░░░░░░▒▒·     a row's slots need not be contiguous: keys carry their position, `visible` says what counts

Shapes: L layers, B rows, H key/value heads, N slots, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
    visible: Tensor
    """(B, N), true where the slot holds a token of the row."""
    lengths: Tensor
    """(B,) tokens of each row, which is the position of its next token."""
    used: int
    """Slots taken; the next tokens go behind them, in every row alike."""

    @classmethod
    def of(cls, prefixes: Sequence[Prefix], room: int) -> "KVCache":
        """A cache that starts with one prefix per row and has `room` more slots."""
        like = prefixes[0].keys_values
        layers, _, heads, _, width = like.shape
        lengths = [prefix.length for prefix in prefixes]
        used = max(lengths)
        store = like.new_zeros(layers, 2, len(prefixes), heads, used + room, width)
        visible = torch.zeros(len(prefixes), used + room, dtype=torch.bool, device=like.device)
        for row, prefix in enumerate(prefixes):
            store[:, :, row, :, : prefix.length] = prefix.keys_values
            visible[row, : prefix.length] = True
        return cls(store, visible, torch.tensor(lengths, device=like.device), used)

    def positions(self, count: int) -> Tensor:
        """Positions (B, count) of each row's next tokens."""
        return self.lengths[:, None] + torch.arange(count, device=self.lengths.device)

    def causal_mask(self, count: int) -> Tensor:
        """(B, count, used + count), true where a new token may look: at its row's past, itself and new ones before."""
        new = torch.ones(count, count, dtype=torch.bool, device=self.visible.device).tril()
        past = self.visible[:, None, : self.used].expand(-1, count, -1)
        return torch.cat([past, new.expand(len(past), -1, -1)], dim=2)

    def append(self, counts: Tensor, width: int) -> None:
        """Take note of `width` slots just written, of which the first counts[row] hold tokens."""
        slots = torch.arange(width, device=counts.device)
        self.visible[:, self.used : self.used + width] = slots < counts[:, None]
        self.lengths = self.lengths + counts
        self.used += width

    def rows(self, index: Tensor) -> "KVCache":
        """A copy with these rows only."""
        return KVCache(self.store[:, :, index], self.visible[index], self.lengths[index], self.used)

    def prefix(self, row: int, length: int) -> Prefix:
        """A copy of the first `length` slots of a row."""
        return Prefix(self.store[:, :, row, :, :length].clone())
