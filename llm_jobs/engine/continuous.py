"""Continuous batching: a queue of requests goes through the rows of one preallocated KV cache.

    requests, longest first ─▶ rows of the cache ─▶ read (packed) ─┬─▶ a token for every row at each step ─▶ outcomes
              ▲                                                    └─▶ closed: the tree of the choices ────▶ outcomes
              └── the next request takes a finished row's place at once

Every row starts with the head that all prompts share (chat header, task description), which is read once. A prompt
that equals another one still in the cache is copied instead of read. A request that is decoded with K beams
(beams.py) has K rows next to each other, a seat; its prompt is read into the first.
Shapes: R rows, B of them, E width, N slots, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llm_jobs.engine.answering import Outcome, Prepared, best_choice
from llm_jobs.engine.beams import Beams
from llm_jobs.engine.choices import choice_tree
from llm_jobs.engine.decoding import NON_FINITE, Answers, Ids
from llm_jobs.engine.kv_cache import KVCache, Prefix, padded, row_bytes
from llm_jobs.engine.packing import Piece, pack, step
from llm_jobs.engine.rules import Rules
from llm_jobs.engine.trunk import Trunk

MOST_ROWS = 128
"""Requests decoded at once. Matrix products of 128 rows run at 93% of the speed of 1,024, 64 at 87%."""
READ_TOKENS = 512
"""Tokens read in one pass: more is no faster (measured from 128 on), and what a layer makes of these fits the cache."""
LIKE = 2
"""The longest request of a cache has at most so many times the tokens of the shortest; then a new one is made."""


class Desk:
    """Answers requests through a causal LLM."""

    def __init__(
        self, trunk: Trunk, end_ids: Tensor, memory: int, head: tuple[Ids, Prefix], rules: Rules, num_beams: int
    ) -> None:
        self._trunk, self._end_ids, self._memory, self._num_beams = trunk, end_ids, memory, num_beams
        self._rules = rules
        self._head_ids, self._head = head

    def serve(self, requests: Sequence[Prepared]) -> dict[int, Outcome]:
        """Outcomes by the requests' index."""
        outcomes: dict[int, Outcome] = {}
        for wave in waves(requests):
            beams = 1 if wave[0].choices else self._num_beams
            most = min(MOST_ROWS, self._memory // row_bytes(self._head, wave[0].tokens)) // beams
            cache = KVCache.empty(self._head, min(len(wave), max(1, most)) * beams, wave[0].tokens)
            work = _ClosedWork if wave[0].choices else _FreeWork
            outcomes |= work(self._trunk, cache, len(self._head_ids), self._end_ids, self._rules, beams).run(wave)
        return outcomes


def waves(requests: Sequence[Prepared]) -> Iterator[list[Prepared]]:
    """Requests that share a cache: all free or all closed, of like lengths, longest first, equal prompts together."""
    wave: list[Prepared] = []
    for request in sorted(requests, key=lambda one: (bool(one.choices), one.tokens, one.parts.before), reverse=True):
        if wave and (
            bool(request.choices) != bool(wave[0].choices) or padded(request.tokens) * LIKE < padded(wave[0].tokens)
        ):
            yield wave
            wave = []
        wave.append(request)
    if wave:
        yield wave


def read(trunk: Trunk, cache: KVCache, pieces: Sequence[Piece]) -> list[Tensor]:
    """Read every piece, a long one in parts; the hidden states (q, E) of its last part."""
    found: list[Tensor] = []
    batch: list[Piece] = []

    def flush() -> None:
        if batch:
            hidden = trunk.read(torch.cat([piece.embeds for piece in batch]), pack(batch, trunk.spans), cache)
            found.extend(hidden.split([len(piece.embeds) for piece in batch]))
            batch.clear()

    for piece in pieces:
        while piece.sees is None and len(piece.embeds) > READ_TOKENS:
            part = Piece(piece.row, piece.start, piece.embeds[:READ_TOKENS])
            trunk.read(part.embeds, pack([part], trunk.spans), cache)
            piece = Piece(piece.row, piece.start + READ_TOKENS, piece.embeds[READ_TOKENS:])
        if sum(len(other.embeds) for other in [*batch, piece]) > READ_TOKENS:
            flush()
        batch.append(piece)
    flush()
    return found


class _Work:
    """The rows of one cache, and which prompts they hold."""

    def __init__(self, trunk: Trunk, cache: KVCache, head: int, end_ids: Tensor, rules: Rules, beams: int) -> None:
        self._trunk, self._cache, self._head, self._end_ids, self._beams = trunk, cache, head, end_ids, beams
        self._rules = rules
        like = trunk.embed(end_ids[:1])
        self._device, self._dtype = like.device, like.dtype
        self._held: dict[int, Ids] = {}  # row -> prompt up to the soft prompt
        self._row_of: dict[Ids, int] = {}

    @property
    def _rows(self) -> int:
        return self._cache.store.shape[2]

    def _hold(self, row: int, before: Ids) -> None:
        """Take note of what a row holds from now on."""
        old = self._held.get(row, ())
        if self._row_of.get(old) == row:
            del self._row_of[old]
        self._held[row] = before
        self._row_of.setdefault(before, row)

    def _settled(self, outcome: Outcome, rows: slice) -> Outcome:
        """The outcome of the request in `rows`, which are emptied if it is that their numbers are not finite.

        The next request there would feel them behind a mask, too: 0 times NaN is NaN.
        """
        if outcome.answer == NON_FINITE:
            self._cache.store[:, :, rows, :, self._head :] = 0
            self._hold(rows.start, ())
        return outcome

    def _read_prompts(self, rows: Sequence[int], requests: Sequence[Prepared]) -> Tensor:
        """Give each request a row; the last hidden state of every prompt (B, E)."""
        read_now: list[int] = []
        copied: list[tuple[int, int]] = []  # request, and the row that will have read its prompt
        leaders: set[int] = set()
        starts = [self._head] * len(requests)
        for at, (row, request) in enumerate(zip(rows, requests, strict=True)):
            before = request.parts.before
            source = self._row_of.get(before) if len(before) > self._head else None
            if source is not None and source in leaders:
                copied.append((at, source))
            elif source is not None:
                self._cache.copy(source, row, len(before))
                starts[at] = len(before)
                read_now.append(at)
            else:
                leaders.add(row)
                read_now.append(at)
            self._hold(row, before)
        last: dict[int, Tensor] = {}
        self._read_ends(read_now, rows, requests, starts, last)
        for at, source in copied:
            starts[at] = len(requests[at].parts.before)
            self._cache.copy(source, rows[at], starts[at])
        self._read_ends([at for at, _ in copied], rows, requests, starts, last)
        return torch.stack([last[at] for at in range(len(requests))])

    def _read_ends(
        self,
        which: Sequence[int],
        rows: Sequence[int],
        requests: Sequence[Prepared],
        starts: Sequence[int],
        last: dict[int, Tensor],
    ) -> None:
        """Read the requests `which` from their start on, and put their last hidden states into `last`."""
        pieces = [Piece(rows[at], starts[at], self._embeds(requests[at], starts[at])) for at in which]
        last |= {at: hidden[-1] for at, hidden in zip(which, read(self._trunk, self._cache, pieces), strict=True)}

    def _embeds(self, request: Prepared, start: int) -> Tensor:
        """Tokens and soft prompt of a request from position `start` on."""
        before, after = (self._ids(ids) for ids in (request.parts.before[start:], request.parts.after))
        soft = request.soft.to(self._device, self._dtype)
        return torch.cat([self._trunk.embed(before), soft, self._trunk.embed(after)])

    def _ids(self, ids: Ids) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self._device)


class _FreeWork(_Work):
    """Free answers, each in the rows of a seat: one row for a greedy answer, else one for each beam."""

    def run(self, requests: Sequence[Prepared]) -> dict[int, Outcome]:
        """Outcomes by index."""
        seats = self._rows // self._beams
        shape = seats, max(request.limit for request in requests), self._end_ids
        answers = Answers(*shape) if self._beams == 1 else Beams(*shape, self._beams)
        lengths = self._end_ids.new_zeros(seats)
        numbers = torch.arange(seats, device=self._device)
        at: list[Prepared] = []  # the request of each seat in use
        waiting = list(requests)[::-1]
        outcomes: dict[int, Outcome] = {}
        while at or waiting:
            done = answers.done(len(at))
            for seat in done:
                outcomes[at[seat].index] = self._settled(Outcome(answers.result(seat)), self._rows_of(seat))
            free = [*done, *range(len(at), seats)]
            taken = free[: len(waiting)]
            if taken:
                fresh = [waiting.pop() for _ in taken]
                for seat, request in zip(taken, fresh, strict=True):
                    at[seat : seat + 1] = [request]
                places = numbers[taken]
                lengths[places] = torch.tensor([request.prompt_tokens for request in fresh], device=self._device)
                guides = [self._rules.guide(request.ids, request.limit) for request in fresh]
                answers.start(places, [request.limit for request in fresh], guides)
                answers.add(places, self._trunk.logits(self._seat(taken, fresh)))
                continue
            for seat in reversed(done):  # the last seat takes the place, so that the rows in use stay together
                final = len(at) - 1
                if seat < final:
                    at[seat] = at[final]
                    self._move(final, seat)
                    answers.move(final, seat)
                    lengths[seat] = lengths[final]
                at.pop()
            if at:
                self._step(answers, numbers[: len(at)], lengths)
        return outcomes

    def _seat(self, seats: Sequence[int], requests: Sequence[Prepared]) -> Tensor:
        """Read the prompt of each request into all rows of its seat; the last hidden state of every prompt (B, E)."""
        rows = [seat * self._beams for seat in seats]
        states = self._read_prompts(rows, requests)
        if self._beams > 1:
            for row, request in zip(rows, requests, strict=True):
                others = slice(row + 1, row + self._beams)
                self._cache.copy(slice(row, row + 1), others, request.prompt_tokens, self._head)
        return states

    def _rows_of(self, seat: int) -> slice:
        return slice(seat * self._beams, (seat + 1) * self._beams)

    def _move(self, source: int, target: int) -> None:
        """Give a seat the rows of another."""
        old, new = self._rows_of(source), self._rows_of(target)
        self._cache.copy(old, new, self._cache.slots)
        self._hold(new.start, self._held[old.start])

    def _step(self, answers: Answers | Beams, seats: Tensor, lengths: Tensor) -> None:
        """A token for every row of the first seats, which hold `lengths` tokens."""
        rows = len(seats) * self._beams
        batch = step(lengths[seats].repeat_interleave(self._beams), self._cache.slots, self._dtype, self._trunk.spans)
        hidden = self._trunk.read(self._trunk.embed(answers.tokens[:rows]), batch, self._cache)
        lengths[seats] += 1
        logits = self._trunk.logits(hidden)
        if isinstance(answers, Answers):
            return answers.add(seats, logits)
        parents = answers.add(seats, logits)
        moved = (parents != torch.arange(rows, device=self._device)).nonzero().flatten()
        prompts = lengths[seats] - answers.counts[seats] + 1  # equal in all rows of a seat
        self._cache.copy(parents[moved], moved, int(lengths[seats].max()), int(prompts.min()))


class _ClosedWork(_Work):
    """Choices, scored in one pass over the tree of their tokens."""

    def run(self, requests: Sequence[Prepared]) -> dict[int, Outcome]:
        """Outcomes by index."""
        outcomes: dict[int, Outcome] = {}
        for start in range(0, len(requests), self._rows):
            batch = requests[start : start + self._rows]
            roots = self._read_prompts(range(len(batch)), batch)
            outcomes |= {
                request.index: self._settled(best_choice(request.choices, scores), slice(row, row + 1))
                for row, (request, scores) in enumerate(zip(batch, self._scores(batch, roots), strict=True))
            }
        return outcomes

    def _scores(self, requests: Sequence[Prepared], roots: Tensor) -> Iterator[Tensor]:
        """Mean log-probability of every choice (C,) of each request, whose prompt ends in the state roots[row] (E,)."""
        trees = [choice_tree(request.choices) for request in requests]
        pieces = [
            Piece(row, request.prompt_tokens, self._trunk.embed(self._ids(tree.tokens)), tree.sees, tree.depths)
            for row, (request, tree) in enumerate(zip(requests, trees, strict=True))
            if tree.tokens
        ]
        nodes = dict(zip((piece.row for piece in pieces), read(self._trunk, self._cache, pieces), strict=True))
        for row, tree in enumerate(trees):
            states = torch.cat([roots[row : row + 1], *[nodes[row]] * (row in nodes)])  # (1 + nodes, E)
            logits = self._trunk.logits(states)
            log_probs = logits[tree.edge_rows, tree.edge_tokens] - logits.logsumexp(1)[tree.edge_rows]
            yield tree.scores(log_probs.cpu())
