"""Read prompts into the rows of a KV cache, each only as far as the cache does not hold it yet.

    prompts ─┬─ equal to one in another row: copied ─▶ soft prompt and rest, packed ─┬─▶ last hidden states
             └─ others ──────────────────────────────▶ whole, packed ────────────────┘

Every row starts with the head that all prompts share (chat header, task description), which is read once.
Shapes: B requests, E width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_jobs.engine.engine import Prepared
from llm_jobs.engine.kv_cache import KVCache
from llm_jobs.engine.packing import NewTokens, pack
from llm_jobs.engine.trunk import Trunk
from llm_jobs.prompts import Ids

READ_TOKENS = 512
"""Tokens read in one pass: more is no faster (measured from 128 on), and what a layer makes of these fits the cache."""
GPU_READ_TOKENS = 8192  # the same on a GPU


def read(trunk: Trunk, cache: KVCache, chunks: Sequence[NewTokens]) -> list[Tensor]:
    """Read every chunk, a long one in parts; the hidden states (q, E) of its last part."""
    states: list[Tensor] = []
    batch: list[NewTokens] = []
    most = READ_TOKENS if cache.store.device.type == "cpu" else GPU_READ_TOKENS

    def flush() -> None:
        if batch:
            hidden = trunk.read(torch.cat([chunk.embeds for chunk in batch]), pack(batch, trunk.spans), cache)
            states.extend(hidden.split([len(chunk.embeds) for chunk in batch]))
            batch.clear()

    for chunk in chunks:
        while chunk.sees is None and len(chunk.embeds) > most:
            part = NewTokens(chunk.row, chunk.start, chunk.embeds[:most])
            trunk.read(part.embeds, pack([part], trunk.spans), cache)
            chunk = NewTokens(chunk.row, chunk.start + most, chunk.embeds[most:])
        if sum(len(other.embeds) for other in [*batch, chunk]) > most:
            flush()
        batch.append(chunk)
    flush()
    return states


@dataclass
class _Reading:
    """A request that is read into a row."""

    row: int
    request: Prepared
    start: int  # tokens of it that the row holds


class PromptRows:
    """The rows of one cache, and which prompts they hold."""

    def __init__(self, trunk: Trunk, cache: KVCache, head: int) -> None:
        """Take over a cache whose rows hold the `head` tokens that all prompts start with."""
        self.trunk, self.cache, self.head = trunk, cache, head
        self.count = cache.store.shape[2]
        """Rows."""
        self.device, self.dtype = cache.store.device, cache.store.dtype
        self._held: dict[int, Ids] = {}  # row -> prompt up to the soft prompt
        self._row_of: dict[Ids, int] = {}

    def read(self, rows: Sequence[int], requests: Sequence[Prepared]) -> Tensor:
        """Give each request a row; the last hidden state of every prompt (B, E)."""
        readings: list[_Reading] = []
        sources: dict[Prepared, int] = {}  # of those that wait until another row has read the same prompt
        leaders: set[int] = set()
        for row, request in zip(rows, requests, strict=True):
            before = request.parts.before
            readings.append(reading := _Reading(row, request, self.head))
            source = self._row_of.get(before) if len(before) > self.head else None
            if source is None:
                leaders.add(row)
            elif source in leaders:
                sources[request] = source
            else:
                self._copy(source, reading)
            self._hold(row, before)
        first = [reading for reading in readings if reading.request not in sources]
        states = self._read_rest(first)
        followers = [reading for reading in readings if reading.request in sources]
        for reading in followers:
            self._copy(sources[reading.request], reading)
        states |= self._read_rest(followers)
        return torch.stack([states[request] for request in requests])

    def move(self, source: slice, target: slice) -> None:
        """Give some rows what others hold."""
        self.cache.copy(source, target, self.cache.cells)
        self._hold(target.start, self._held[source.start])

    def clear(self, rows: slice) -> None:
        """Empty rows whose numbers are not finite.

        The next request there would feel them behind a mask, too: 0 times NaN is NaN.
        """
        self.cache.store[:, :, rows, :, self.head :] = 0
        self._hold(rows.start, ())

    def embed(self, ids: Ids) -> Tensor:
        return self.trunk.embed(torch.tensor(ids, dtype=torch.long, device=self.device))

    def _hold(self, row: int, before: Ids) -> None:
        """Take note of what a row holds from now on."""
        old = self._held.get(row, ())
        if self._row_of.get(old) == row:
            del self._row_of[old]
        self._held[row] = before
        self._row_of.setdefault(before, row)

    def _copy(self, source: int, reading: _Reading) -> None:
        reading.start = len(reading.request.parts.before)
        self.cache.copy(source, reading.row, reading.start)

    def _read_rest(self, readings: Sequence[_Reading]) -> dict[Prepared, Tensor]:
        """Read requests to their end; their last hidden states (E,)."""
        chunks = [NewTokens(reading.row, reading.start, self._embeds(reading)) for reading in readings]
        states = read(self.trunk, self.cache, chunks)
        return {reading.request: state[-1] for reading, state in zip(readings, states, strict=True)}

    def _embeds(self, reading: _Reading) -> Tensor:
        """Embed tokens and soft prompt of a request from the first token on that its row does not hold."""
        parts, soft = reading.request.parts, reading.request.soft
        before, after = self.embed(parts.before[reading.start :]), self.embed(parts.after)
        return torch.cat([before, soft.to(self.device, self.dtype), after])
