"""Continuous batching: a queue of requests goes through the rows of one preallocated KV cache.

    requests, longest first ─▶ rows of the cache ─▶ read (packed) ─┬─▶ a token for every row at each step ─▶ decoded
              ▲                                                    └─▶ closed: the tree of the choices ────▶ decoded
              └── the next request takes a finished one's slot at once

A slot is what a request has of the cache: one row for a greedy answer; with K beams (beams.py) K rows next to each
other, of which the first reads the prompt.

A GPU is far behind the program that tells it what to do, which should not wait for it: whether an answer has ended is
asked for every few steps only, and a step, whose sizes hardly change, is recorded once and replayed (recorded.py).
Shapes: B rows, E width.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from embedder.devices import free_memory
from embedder.encoder import Tell
from llm_jobs.engine.beams import BeamSearch
from llm_jobs.engine.choices import score_choices
from llm_jobs.engine.decoding import GreedySearch
from llm_jobs.engine.engine import NON_FINITE, Prepared, Result, best_choice, split_where, untold
from llm_jobs.engine.kv_cache import KVCache, Prefix, padded, row_bytes
from llm_jobs.engine.packing import step
from llm_jobs.engine.prefill import PromptRows
from llm_jobs.engine.recorded import Recorded
from llm_jobs.engine.rules import Rules
from llm_jobs.engine.trunk import Trunk
from llm_jobs.prompts import Ids

logger = logging.getLogger(__name__)

MOST_ROWS: Final = 128
"""Requests decoded at once. Matrix products of 128 rows run at 93% of the speed of 1,024, 64 at 87%."""
MOST_GPU_ROWS: Final = 256
"""The same on a GPU."""
GPU_STEPS: Final = 8
"""Steps between two looks at which answers have ended, on a GPU; the others go on for nothing meanwhile."""
LONGEST_TO_SHORTEST: Final = 2
"""The longest request of a cache has at most so many times the tokens of the shortest; then a new one is made."""


class Scheduler:
    """Answers requests through a causal LLM."""

    def __init__(
        self,
        trunk: Trunk,
        end_ids: Tensor,
        memory: int,
        head: tuple[Ids, Prefix],
        rules: Rules,
        num_beams: int,
        tell: Tell,
    ) -> None:
        self._trunk, self._end_ids, self._memory, self._num_beams = trunk, end_ids, memory, num_beams
        self._rules, self._tell = rules, tell
        self._head_ids, self._head = head
        self._most_rows = MOST_ROWS if end_ids.device.type == "cpu" else MOST_GPU_ROWS

    def run(self, requests: Sequence[Prepared]) -> dict[Prepared, Result]:
        """Decode an answer to each request."""
        results: dict[Prepared, Result] = {}
        for batch in batches(requests):
            while (found := self._answered(batch)) is None:
                free_memory()
            results |= found
        return results

    def _answered(self, batch: Sequence[Prepared]) -> dict[Prepared, Result] | None:
        """Answer requests that share a cache; None if there is no memory for it, and next time it has half the rows.

        Raises:
            torch.OutOfMemoryError: if there is none for a single request.
        """
        beams = 1 if batch[0].choices else self._num_beams
        most = min(self._most_rows, self._memory // row_bytes(self._head, batch[0].tokens)) // beams
        count = min(len(batch), max(1, most))
        try:
            cache = KVCache.empty(self._head, count * beams, batch[0].tokens)
            rows = PromptRows(self._trunk, cache, len(self._head_ids))
            if batch[0].choices:
                return choose(rows, batch, self._tell)
            end_ids = torch.cat([self._end_ids, self._end_ids.new_tensor(batch[0].stop_ids)])
            return _Decoding(rows, batch, end_ids, self._rules, beams, self._tell).run()
        except torch.OutOfMemoryError:
            if count == 1:
                raise
            self._most_rows = count * beams // 2
            logger.warning("no memory for %d requests at once: going on with %d", count, count // 2)
            return None


def batches(requests: Sequence[Prepared]) -> Iterator[list[Prepared]]:
    """Group requests that share a cache, all closed or all with the same ends, of like lengths, longest first."""

    def key(one: Prepared) -> tuple[bool, Ids, int, Ids]:
        return bool(one.choices), one.stop_ids, one.tokens, one.parts.before  # equal prompts together

    def is_other(batch: Sequence[Prepared], one: Prepared) -> bool:
        is_short = padded(one.tokens) * LONGEST_TO_SHORTEST < padded(batch[0].tokens)
        return is_short or key(one)[:2] != key(batch[0])[:2]

    return split_where(sorted(requests, key=key, reverse=True), is_other)


def choose(rows: PromptRows, requests: Sequence[Prepared], tell: Tell) -> dict[Prepared, Result]:
    """Answer closed requests, as many at a time as there are rows."""
    results: dict[Prepared, Result] = {}
    for start in range(0, len(requests), rows.count):
        batch = requests[start : start + rows.count]
        for row, (request, scores) in enumerate(zip(batch, score_choices(rows, batch), strict=True)):
            results[request] = best_choice(request.choices, scores)
            if results[request] == NON_FINITE:
                rows.clear(slice(row, row + 1))
        tell(len(batch))
    return results


def runs_ahead(device: torch.device) -> bool:
    """Tell whether the program should not wait for the device after each step."""
    return device.type != "cpu"


class _Decoding:
    """Free answers, one or more rows for each slot; the slots in use are the first ones."""

    def __init__(
        self,
        rows: PromptRows,
        requests: Sequence[Prepared],
        end_ids: Tensor,
        rules: Rules,
        beams: int,
        tell: Tell = untold,
    ) -> None:
        self._rows, self._rules, self._beams, self._tell = rows, rules, beams, tell
        self._waiting = list(requests)[::-1]
        self._running: list[Prepared] = []  # the request of each slot in use
        self._results: dict[Prepared, Result] = {}
        self._count = rows.count // beams
        shape = self._count, max(request.limit for request in requests), end_ids
        self._search = GreedySearch(*shape) if beams == 1 else BeamSearch(*shape, beams)
        self._lengths = end_ids.new_zeros(self._count)
        self._numbers = torch.arange(self._count, device=end_ids.device)
        is_ruled = bool(rules.settings) or any(one.request.no_repeat for one in requests)
        self._is_ahead = runs_ahead(end_ids.device) and beams == 1 and not is_ruled

    def run(self) -> dict[Prepared, Result]:
        """Decode until nothing runs or waits."""
        # Not kept here: an object that holds its own method, and with it the cache, waits for the garbage collector.
        advance = Recorded(self._step, self._numbers.device) if self._is_ahead else self._step
        while self._running or self._waiting:
            done = self._search.done(len(self._running))
            known = len(self._results)
            for slot in done:
                self._finish(slot)
            self._tell(len(self._results) - known)
            free = [*done, *range(len(self._running), self._count)]
            if taken := free[: len(self._waiting)]:
                self._start(taken)
                continue
            for slot in reversed(done):
                self._give_up(slot)
            if self._running:
                for _ in range(GPU_STEPS if self._is_ahead else 1):
                    advance(self._step_slots())
        return self._results

    def _step_slots(self) -> int:
        """Count the slots that a step goes through: those in use, and where steps are recorded a power of two."""
        used = len(self._running)
        return min(self._count, 1 << (used - 1).bit_length()) if self._is_ahead else used

    def _finish(self, slot: int) -> None:
        result = self._results[self._running[slot]] = self._search.result(slot)
        if result == NON_FINITE:
            self._rows.clear(self._rows_of(slot))

    def _start(self, slots: Sequence[int]) -> None:
        """Give the slots to the next requests: read their prompts, and add the first token of their answers."""
        requests = [self._waiting.pop() for _ in slots]
        for slot, request in zip(slots, requests, strict=True):
            self._running[slot : slot + 1] = [request]
        places = self._numbers[slots]
        self._lengths[places] = torch.tensor([one.prompt_tokens for one in requests], device=places.device)
        guides = [self._rules.guide(one.ids, one.limit, one.request.no_repeat) for one in requests]
        self._search.start(places, [request.limit for request in requests], guides)
        self._search.add(places, self._rows.trunk.logits(self._read(slots, requests)))

    def _read(self, slots: Sequence[int], requests: Sequence[Prepared]) -> Tensor:
        """Read the prompt of each request into all rows of its slot; the last hidden state of every prompt (B, E)."""
        states = self._rows.read([slot * self._beams for slot in slots], requests)
        for slot, request in zip(slots, requests, strict=True):
            if self._beams > 1:
                own = self._rows_of(slot)
                first, others = slice(own.start, own.start + 1), slice(own.start + 1, own.stop)
                self._rows.cache.copy(first, others, request.prompt_tokens, self._rows.head)
        return states

    def _give_up(self, slot: int) -> None:
        """Move the last request in use to a slot that is done, so that the slots in use stay together."""
        last = len(self._running) - 1
        if slot < last:
            self._running[slot] = self._running[last]
            self._rows.move(self._rows_of(last), self._rows_of(slot))
            self._search.move(last, slot)
            self._lengths[slot] = self._lengths[last]
        self._running.pop()

    def _step(self, count: int) -> None:
        """Add a token to every row of the first slots; those that are done, or not in use, stay as they are."""
        slots, trunk, cache = self._numbers[:count], self._rows.trunk, self._rows.cache
        lengths, going = self._lengths[slots], self._search.going(slots)
        of_rows = lengths if self._beams == 1 else lengths.repeat_interleave(self._beams)
        batch = step(of_rows, cache.cells, self._rows.dtype, trunk.spans)
        hidden = trunk.read(trunk.embed(self._search.next_tokens(slots)), batch, cache)
        self._lengths[slots] = lengths = lengths + going
        parents = self._search.add(slots, trunk.logits(hidden))
        if parents is not None and isinstance(self._search, BeamSearch):
            moved = (parents != torch.arange(len(parents), device=parents.device)).nonzero().flatten()
            prompts = lengths - self._search.counts[slots] + 1  # equal in all rows of a slot
            cache.copy(parents[moved], moved, int(lengths.max()), int(prompts.min()))

    def _rows_of(self, slot: int) -> slice:
        return slice(slot * self._beams, (slot + 1) * self._beams)
