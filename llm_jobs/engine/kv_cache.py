"""Keys and values of the tokens a causal LLM has read: of one prompt (Prefix) and of many rows (KVCache).

    Prefix   ░░░░░░          one prompt up to the soft prompt, without padding
    KVCache  ░░░░░░▒▒▒··     rows: prefixes and the tokens appended since
             ░░░▒▒▒·····     the token at position p of a row is in its cell p, whatever the other rows hold

Shapes: L layers, R rows, H key/value heads, N cells, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

CELLS = 32  # N is a multiple of it: a softmax over a ragged number of cells takes twice the time (measured)


RowNumbers = int | slice | Tensor


@dataclass(frozen=True, eq=False)
class Prefix:
    """What a causal LLM keeps of the tokens before the soft prompt."""

    keys_values: Tensor  # (L, 2, H, tokens, D), in the LLM's dtype

    @property
    def nbytes(self) -> int:
        return self.keys_values.nbytes

    @property
    def length(self) -> int:
        """Tokens read."""
        return self.keys_values.shape[3]

    @property
    def pooled_values(self) -> Tensor:
        return pooled_values(self.keys_values)


@dataclass(frozen=True, eq=False)
class KVCache:
    """Preallocated keys and values; a trunk writes the tokens it reads into their cells."""

    store: Tensor  # (L, 2, R, H, N, D); cells that hold no token are finite

    @classmethod
    def empty(cls, like: Prefix, rows: int, cells: int) -> "KVCache":
        """Make a cache for at least `cells` tokens a row; each row starts with `like`."""
        store = unwritten(like, rows, cells)
        store[..., : like.length, :] = like.keys_values[:, :, None]
        store[..., like.length :, :] = 0
        return cls(store)

    @classmethod
    def of(cls, prefixes: Sequence[Prefix]) -> "KVCache":
        """Make a cache that holds one prefix per row."""
        store = unwritten(prefixes[0], len(prefixes), max(prefix.length for prefix in prefixes))
        for row, prefix in enumerate(prefixes):
            store[:, :, row, :, : prefix.length] = prefix.keys_values
            store[:, :, row, :, prefix.length :] = 0
        return cls(store)

    @property
    def cells(self) -> int:
        return self.store.shape[4]

    def copy(self, source: RowNumbers, target: RowNumbers, stop: int, start: int = 0) -> None:
        """Give rows what is in some cells of other rows."""
        self.store[:, :, target, :, start:stop] = self.store[:, :, source, :, start:stop]

    def prefix(self, row: int, length: int) -> Prefix:
        """Copy the first `length` tokens of a row."""
        return Prefix(self.store[:, :, row, :, :length].clone())


def pooled_values(keys_values: Tensor) -> Tensor:
    """Average what the LLM made of some tokens: their values, in the middle third of its layers.

    The first of several tokens is left out: attention comes to rest there whatever it says ("attention sink",
    arXiv 2309.17453). docs/experiments.md, 2026-11-27, has other layers, and the last token alone.

    Args:
        keys_values: (L, 2, H, tokens, D) at least one token.

    Returns:
        (V,) float32, V = layers of the middle third * H * D.
    """
    values = keys_values[middle_third(len(keys_values)), 1, :, min(1, keys_values.shape[3] - 1) :]
    return values.float().mean(2).flatten()


def values_width(like: Prefix) -> int:
    """Count V of `pooled_values`."""
    layers, _, heads, _, width = like.keys_values.shape
    return len(range(layers)[middle_third(layers)]) * heads * width


def middle_third(layers: int) -> slice:
    """Choose the layers in the middle; at least one."""
    return slice(layers // 3, layers - layers // 3)


def padded(cells: int) -> int:
    """Round up to the cells of a cache that holds so many tokens."""
    return -(-cells // CELLS) * CELLS


def unwritten(like: Prefix, rows: int, cells: int) -> Tensor:
    """Reserve a cache for at least so many tokens a row (L, 2, R, H, N, D); what is in it is arbitrary."""
    layers, _, heads, _, width = like.keys_values.shape
    return like.keys_values.new_empty(layers, 2, rows, heads, padded(cells), width)


def row_bytes(like: Prefix, cells: int) -> int:
    """Count the bytes of one row of a cache for so many tokens."""
    layers, _, heads, _, width = like.keys_values.shape
    return layers * 2 * heads * width * padded(cells) * like.keys_values.element_size()
