"""New tokens of many rows as one matrix, without padding, for a causal LLM to read in one pass.

    chunks (row, first cell, embeddings)          PackedBatch: embeds (T, E), positions, cells, rows (T,)
      ░░░░░                                         ░░░░░▒▒▒▒▓▓
      ▒▒▒▒          ── pack ─▶                      attention alone works on groups (B, Q) of rows of like lengths,
      ▓▓                                            in which a shorter row repeats its last token

All of a token's work but attention runs as matrix products over the T real tokens.
Shapes: T new tokens, E width; B rows of a group, Q new tokens of the longest of them, K cells that are looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_jobs.engine.engine import split_where
from llm_jobs.engine.kv_cache import padded
from llm_jobs.engine.spans import EVERYTHING, Span

LIKE = 0.6
"""The shortest row of a group has at least this share of the tokens of the longest: attention is a tenth of the work,
so that padding it costs less than one more group."""


@dataclass(frozen=True, eq=False)
class NewTokens:
    """New tokens of one row."""

    row: int  # row of the cache
    start: int  # slot of the first token, and its position
    embeds: Tensor  # (q, E)
    sees: Tensor | None = None
    """(q, q) which of the new tokens each may look at; those up to itself unless given."""
    depths: Tensor | None = None  # (q,) position of each token counted from `start`; its number unless given


@dataclass(frozen=True, eq=False)
class Group:
    """Rows whose attention is computed together."""

    tokens: slice  # the group's tokens among those of the batch
    rows: slice | Tensor  # (B,) rows of the cache
    masks: Sequence[Tensor]
    """For each span (B, Q, K) 0 where a token may look, else the lowest number of the dtype: -inf would make NaN of 0
    times it."""
    pick: Tensor | None = None
    """(B, Q) the group's tokens, a shorter row filled up with its last; None if all rows have Q."""
    back: Tensor | None = None  # where in the flattened `pick` each of the group's tokens is


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """What a trunk reads in one pass."""

    positions: Tensor  # (T,)
    cells: Tensor  # (T,) where keys and values go
    rows: Tensor  # (T,) row of the cache
    groups: Sequence[Group]


def pack(chunks: Sequence[NewTokens], spans: Sequence[Span] = (EVERYTHING,)) -> PackedBatch:
    """Pack chunks of different rows, for layers of these spans; like lengths should be neighbours."""
    like = chunks[0].embeds
    groups: list[Group] = []
    first = 0
    for members in split_where(chunks, _is_unlike):
        groups.append(_group(members, first, spans))
        first = groups[-1].tokens.stop
    counts = [len(chunk.embeds) for chunk in chunks]
    ranges = [torch.arange(count) for count in counts]
    starts = torch.tensor([chunk.start for chunk in chunks]).repeat_interleave(torch.tensor(counts))
    depths = [numbers if chunk.depths is None else chunk.depths for chunk, numbers in zip(chunks, ranges, strict=True)]
    rows = torch.tensor([chunk.row for chunk in chunks]).repeat_interleave(torch.tensor(counts))
    return PackedBatch(
        positions=(starts + torch.cat(depths)).to(like.device),
        cells=(starts + torch.cat(ranges)).to(like.device),
        rows=rows.to(like.device),
        groups=groups,
    )


def step(lengths: Tensor, cells: int, dtype: torch.dtype, spans: Sequence[Span] = (EVERYTHING,)) -> PackedBatch:
    """Pack one new token for each of the first rows of a cache of so many cells, which hold `lengths` tokens."""
    rows = torch.arange(len(lengths), device=lengths.device)
    keys, queries = torch.arange(cells, device=lengths.device), lengths[:, None, None]
    whole = slice(0, len(lengths))
    return PackedBatch(
        lengths, lengths, rows, [Group(whole, whole, masks_of(keys > queries, queries, keys, spans, dtype))]
    )


def masks_of(
    is_hidden: Tensor, queries: Tensor, keys: Tensor, spans: Sequence[Span], dtype: torch.dtype
) -> list[Tensor]:
    """Make the mask of each span (B, Q, K).

    Args:
        is_hidden: (B, Q, K) tokens that no layer may look at.
        queries: positions of the new tokens, broadcast to (B, Q, 1).
        keys: positions of the tokens that are looked at, broadcast to (B, 1, K).
        spans: of the layers.
        dtype: of the masks.
    """
    beyond = [span.hides(queries, keys) for span in spans]
    hidden = [is_hidden if further is None else is_hidden | further for further in beyond]
    return [torch.zeros_like(one, dtype=dtype).masked_fill_(one, torch.finfo(dtype).min) for one in hidden]


def query_and_key_positions(positions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Spread `positions` (B, Q) of new tokens behind cached ones for a mask (B, Q, P + Q): (B, Q, 1), (B, 1, P + Q)."""
    past = torch.arange(mask.shape[2] - mask.shape[1], device=positions.device)
    return positions[:, :, None], torch.cat([past.expand(len(positions), -1), positions], dim=1)[:, None]


def _is_unlike(chunks: Sequence[NewTokens], other: NewTokens) -> bool:
    sizes = len(chunks[0].embeds), len(other.embeds)
    return min(sizes) < LIKE * max(sizes)


def _group(chunks: Sequence[NewTokens], first: int, spans: Sequence[Span]) -> Group:
    like = chunks[0].embeds
    counts = torch.tensor([len(chunk.embeds) for chunk in chunks])
    starts = torch.tensor([chunk.start for chunk in chunks])
    longest = int(counts.max())
    numbers = torch.minimum(torch.arange(longest), counts[:, None] - 1)  # (B, Q) of a token in its chunk
    seen = padded(int((counts + starts).max()))
    keys, queries = torch.arange(seen).repeat(len(chunks), 1), starts[:, None] + numbers  # positions (B, K), (B, Q)
    is_hidden = keys[:, None] > queries[:, :, None]  # (B, Q, K)
    for row, chunk in enumerate(chunks):
        new = slice(chunk.start, chunk.start + len(chunk.embeds))
        if chunk.sees is not None:
            is_hidden[row, :, new] = ~chunk.sees[numbers[row]]
            is_hidden[row, :, new.stop :] = True
        if chunk.depths is not None:
            keys[row, new] = chunk.start + chunk.depths
            queries[row] = chunk.start + chunk.depths[numbers[row]]
    rows = torch.tensor([chunk.row for chunk in chunks], device=like.device)
    tokens = slice(first, first + int(counts.sum()))
    positions = queries[:, :, None].to(like.device), keys[:, None].to(like.device)
    masks = masks_of(is_hidden.to(like.device), *positions, spans, like.dtype)
    if int(counts.min()) == longest:
        return Group(tokens, rows, masks)
    offsets = counts.cumsum(0) - counts
    back = torch.cat([row * longest + torch.arange(count) for row, count in enumerate(counts.tolist())])
    return Group(tokens, rows, masks, (offsets[:, None] + numbers).to(like.device), back.to(like.device))
