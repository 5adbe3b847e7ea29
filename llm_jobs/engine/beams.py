"""Beam search: K beginnings of an answer grow side by side, until none of them is better than K answers that ended.

    a step with K = 2     sum of log-probabilities
    row 0  the cat -1.2 ─┬─▶ the cat sat  -1.9   goes on: in its parent's row
                         ├─▶ the cat .    -2.1   ends, among the K best: into the pool, with its mean of -0.70
                         └─▶ the cat ran  -2.3   goes on: row 1 gets a copy of the keys and values of row 0
    row 1  a dog   -2.0 ───▶ a dog ran    -3.3   is dropped

A request is done when its pool holds K answers and the mean of its best running beam is not above the worst of theirs,
or at its limit, where everything ends. The answer is the one with the highest mean. These are the rules of
`transformers`' generate(num_beams=K, length_penalty=1.0, early_stopping=False), one request at a time.

Shapes: B seats (requests), K beams of each, rows B K, V vocabulary, C candidates of a row, T most tokens of an answer.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_jobs.engine.decoding import BLOCK, NON_FINITE, ROWS_AT_ONCE, TIE, Decoded, Steps
from llm_jobs.engine.rules import Guide
from llm_jobs.prompts import Refusal

NO_TOKEN = -1
"""What stands behind the tokens of an answer."""


class Beams:
    """The beams of requests as they grow: what Answers is for greedy answers.

    A request has a seat, K rows next to each other, which may be given to another. Nothing but `result` costs more
    Python work for more rows.
    """

    def __init__(self, seats: int, longest: int, end_ids: Tensor, width: int) -> None:
        self._width, self._end_ids = width, end_ids
        self.counts = end_ids.new_zeros(seats)
        """(seats,) tokens of each running beam."""
        self._tokens = end_ids.new_zeros(seats, width)
        self._ids = end_ids.new_full((seats, width, longest), NO_TOKEN)
        self._sums = self._tokens.float()
        self._pool_ids, self._pool_means = self._ids.clone(), self._sums.clone()
        self._ties, self._limits, self._is_done = self.counts.clone(), self.counts.clone(), self.counts.bool()
        self._guides: list[Guide | None] = [None] * seats

    @property
    def tokens(self) -> Tensor:
        """(rows,) the last token of each running beam."""
        return self._tokens.view(-1)

    def start(self, seats: Tensor, limits: Sequence[int], guides: Sequence[Guide | None]) -> None:
        """Begin new answers of at most so many tokens."""
        for seat, guide in zip(seats.tolist(), guides, strict=True):
            self._guides[seat] = guide
        for state in (self.counts, self._sums, self._ties, self._is_done):
            state[seats] = 0
        self._ids[seats], self._pool_means[seats] = NO_TOKEN, -torch.inf
        self._limits[seats] = torch.tensor(limits, device=seats.device)

    def add(self, seats: Tensor, logits: Tensor) -> Tensor:
        """Add a token to the beams of each seat.

        Args:
            seats: (B,) none of them done.
            logits: (B, V) at the start, when all beams are alike, else (B K, V); float32.

        Returns:
            (B K,) the row of `logits` that each beam continues.
        """
        width, beams = self._width, len(logits) // len(seats)
        # One more than is kept shows ties; end tokens must not take the places of those that go on.
        tokens, log_probs = self._likely(seats, logits, width + 1 + len(self._end_ids))
        count = tokens.shape[1]
        totals = (self._sums[seats, :beams, None] + log_probs.view(len(seats), beams, count)).flatten(1)  # (B, b C)
        tokens = tokens.view_as(totals)
        is_end = torch.isin(tokens, self._end_ids)
        self.counts[seats] += 1
        is_last = self.counts[seats] >= self._limits[seats]

        best = totals.topk(width + 1)
        picked, sums = best.indices[:, :width], best.values[:, :width]
        is_over = is_end.gather(1, picked) | is_last[:, None] | sums.isnan()  # NaN goes to the top of the pool
        ids = self._grown(seats, picked // count, tokens.gather(1, picked))
        self._collect(seats, ids, sums.masked_fill(~is_over, -torch.inf))

        running = totals.masked_fill(is_end, -torch.inf).topk(width + 1)
        order = in_place(running.indices[:, :width] // count)
        picked, self._sums[seats] = (part.gather(1, order) for part in (running.indices, running.values))
        parents, self._tokens[seats] = picked // count, tokens.gather(1, picked)
        self._ids[seats] = self._grown(seats, parents, self._tokens[seats])

        lead = running.values[:, 0] / self.counts[seats] - self._pool_means[seats, -1]
        self._is_done[seats] = is_last | ~(lead > 0)  # also if it is NaN
        is_tie = (lead.abs() <= TIE) | _is_close(best.values) | _is_close(running.values)
        self._ties[seats] += is_tie & ~is_last
        return (parents + torch.arange(len(seats), device=seats.device)[:, None] * beams).flatten()

    def _likely(self, seats: Tensor, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The most probable tokens and their log-probabilities; what rules make of these, if there are any."""
        if not any(self._guides):
            return likely_tokens(logits, count)
        beams = len(logits) // len(seats)
        ruled = logits.log_softmax(1).view(len(seats), beams, -1)
        for at, seat in enumerate(seats.tolist()):
            if guide := self._guides[seat]:
                answers = self._ids[seat, :beams, : int(self.counts[seat])]
                ruled[at] = torch.stack([guide(ids, scores) for ids, scores in zip(answers, ruled[at], strict=True)])
        best = ruled.flatten(0, 1).topk(min(count, logits.shape[1]))
        return best.indices, best.values

    def _grown(self, seats: Tensor, parents: Tensor, tokens: Tensor) -> Tensor:
        """All ids (B, K, T) of the beams that continue `parents` (B, K) with `tokens` (B, K)."""
        last = (self.counts[seats] - 1)[:, None, None].expand(-1, self._width, 1)
        return self._ids[seats[:, None], parents].scatter(2, last, tokens[:, :, None])

    def _collect(self, seats: Tensor, ids: Tensor, sums: Tensor) -> None:
        """Put answers (B, K, T) into the pool where they are among the best; a sum of -inf is no answer."""
        means = torch.cat([self._pool_means[seats], sums / self.counts[seats, None]], dim=1)
        kept = means.topk(self._width)
        numbers = torch.arange(len(seats), device=seats.device)[:, None]
        self._pool_means[seats] = kept.values
        self._pool_ids[seats] = torch.cat([self._pool_ids[seats], ids], dim=1)[numbers, kept.indices]

    def going(self, seats: Tensor) -> Tensor:
        """Which of `seats` are not done."""
        return ~self._is_done[seats]

    def done(self, seats: int) -> list[int]:
        """Which of the first `seats` are done."""
        return self._is_done[:seats].nonzero().flatten().tolist()

    def move(self, source: int, target: int) -> None:
        """Give a seat the place of another."""
        states = (self.counts, self._tokens, self._ids, self._sums, self._pool_ids, self._pool_means)
        for state in (*states, self._ties, self._limits, self._is_done):
            state[target] = state[source]
        self._guides[target] = self._guides[source]

    def result(self, seat: int) -> Decoded | Refusal:
        """The answer of a seat."""
        first, second = self._pool_means[seat, :2].tolist()
        if not math.isfinite(first):
            return NON_FINITE
        ids = tuple(token for token in self._pool_ids[seat, 0].tolist() if token != NO_TOKEN)
        has_ended = bool((self._end_ids == ids[-1]).any())
        return Decoded(ids, first, has_ended, int(self._ties[seat]) + (first - second <= TIE))


def likely_tokens(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` most probable tokens of each row of `logits` (R, V) and their log-probabilities, (R, C) each.

    The log-probabilities are not finite if a logit of the row is NaN or infinite.
    """
    parts = [_likely_tokens(part, min(count, part.shape[1])) for part in logits.split(ROWS_AT_ONCE)]
    tokens, log_probs = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(log_probs)


def _likely_tokens(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    blocks = F.pad(logits, (0, -logits.shape[1] % BLOCK), value=-torch.inf).view(len(logits), -1, BLOCK)
    near = blocks.amax(2).topk(min(count, blocks.shape[1])).indices  # the blocks that hold them
    numbers = torch.arange(len(logits), device=logits.device)[:, None]
    found = blocks[numbers, near].flatten(1).topk(count)
    tokens = near.gather(1, found.indices // BLOCK) * BLOCK + found.indices % BLOCK
    return tokens, found.values - logits.logsumexp(1, keepdim=True)


def in_place(parents: Tensor) -> Tensor:
    """An order (B, K) of children with `parents` (B, K) in which each parent's first child is at its parent's place."""
    is_further = (parents[:, :, None] == parents[:, None, :]).tril(-1).any(2)
    is_taken = torch.zeros_like(is_further).scatter(1, parents, True)
    free = is_taken.long().argsort(1)  # the places without a child come first
    places = torch.where(is_further, free.gather(1, (is_further.cumsum(1) - 1).clamp(min=0)), parents)
    return places.argsort(1)


def _is_close(sums: Tensor) -> Tensor:
    """Whether the last of `sums` (B, K + 1), which is not kept, might as well be (B,)."""
    return sums[:, -2] - sums[:, -1] <= TIE


class BeamSteps(Steps, Protocol):
    """A batch whose rows may change places."""

    def reorder(self, rows: Tensor) -> None:
        """Let each row continue the one of `rows`, which has the same prompt."""
        ...


def beam_search(
    logits: Tensor,
    steps: BeamSteps,
    limits: Sequence[int],
    end_ids: Tensor,
    guides: Sequence[Guide | None],
    width: int,
) -> list[Decoded | Refusal]:
    """Continue each row of `logits` (B, V), the first prediction, by at most limits[row] tokens with `width` beams."""
    beams = Beams(len(limits), max(limits), end_ids, width)
    seats = torch.arange(len(limits), device=end_ids.device)
    beams.start(seats, limits, guides)
    steps.keep(beams.add(seats, logits))
    while bool((going := beams.going(seats)).any()):
        if not bool(going.all()):
            steps.keep(going.repeat_interleave(width).nonzero().flatten())
            seats = seats[going]
        tokens = beams.tokens.view(-1, width)[seats].flatten()
        steps.reorder(beams.add(seats, steps.next(tokens)))
    return [beams.result(seat) for seat in range(len(limits))]
