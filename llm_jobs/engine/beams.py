"""Beam search: K beginnings of an answer grow side by side, until none of them is better than K answers that ended.

    a step with K = 2     sum of log-probabilities
    row 0  the cat -1.2 ─┬─▶ the cat sat  -1.9   goes on: in its parent's row
                         ├─▶ the cat .    -2.1   ends, among the K best: into the pool, with its mean of -0.70
                         └─▶ the cat ran  -2.3   goes on: row 1 gets a copy of the keys and values of row 0
    row 1  a dog   -2.0 ───▶ a dog ran    -3.3   is dropped

A request is done when its pool holds K answers and the mean of its best running beam is not above the worst of theirs,
or at its limit, where everything ends. The answer is the one with the highest mean. These are the rules of
`transformers`' generate(num_beams=K, length_penalty=1.0, early_stopping=False), one request at a time.

Shapes: B slots (requests), K beams of each, rows B K, V vocabulary, C candidates of a row, T most tokens of an answer.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_jobs.engine.decoding import BLOCK, ROWS_AT_ONCE, Search
from llm_jobs.engine.engine import NON_FINITE, TIE, Decoded, Result
from llm_jobs.engine.rules import Guide

NO_TOKEN = -1  # what stands behind the tokens of an answer


class BeamSearch(Search):
    """Grows the beams of many requests, as GreedySearch does greedy answers.

    A slot is K rows next to each other. Nothing but `result` costs more Python work for more rows.
    """

    def __init__(self, slots: int, longest: int, end_ids: Tensor, width: int) -> None:
        super().__init__(slots, end_ids)
        self.width = width
        self._tokens = end_ids.new_zeros(slots, width)
        self._ids = end_ids.new_full((slots, width, longest), NO_TOKEN)
        self._sums = self._tokens.float()
        self._pool_ids, self._pool_means = self._ids.clone(), self._sums.clone()

    def next_tokens(self, slots: Tensor) -> Tensor:
        """Give the tokens (B K,) that the LLM reads next."""
        return self._tokens[slots].flatten()

    def start(self, slots: Tensor, limits: Sequence[int], guides: Sequence[Guide | None]) -> None:
        super().start(slots, limits, guides)
        self._sums[slots], self._ids[slots], self._pool_means[slots] = 0, NO_TOKEN, -torch.inf

    def add(self, slots: Tensor, logits: Tensor) -> Tensor:
        """Add a token to the beams of each slot.

        Args:
            slots: (B,) none of them done.
            logits: (B, V) at the start, when all beams are alike, else (B K, V); float32.

        Returns:
            (B K,) the row of `logits` that each beam continues.
        """
        width, beams = self.width, len(logits) // len(slots)
        # One more than is kept shows ties; end tokens must not take the places of those that go on.
        tokens, log_probs = self._likely(slots, logits, width + 1 + len(self._end_ids))
        count = tokens.shape[1]
        totals = (self._sums[slots, :beams, None] + log_probs.view(len(slots), beams, count)).flatten(1)  # (B, b C)
        tokens = tokens.view_as(totals)
        is_end = torch.isin(tokens, self._end_ids)
        self.counts[slots] += 1
        is_last = self.counts[slots] >= self._limits[slots]

        best = totals.topk(width + 1)
        picked, sums = best.indices[:, :width], best.values[:, :width]
        is_over = is_end.gather(1, picked) | is_last[:, None] | sums.isnan()  # NaN goes to the top of the pool
        ids = self._grown(slots, picked // count, tokens.gather(1, picked))
        self._collect(slots, ids, sums.masked_fill(~is_over, -torch.inf))

        running = totals.masked_fill(is_end, -torch.inf).topk(width + 1)
        order = in_place(running.indices[:, :width] // count)
        picked, self._sums[slots] = (part.gather(1, order) for part in (running.indices, running.values))
        parents, self._tokens[slots] = picked // count, tokens.gather(1, picked)
        self._ids[slots] = self._grown(slots, parents, self._tokens[slots])

        lead = running.values[:, 0] / self.counts[slots] - self._pool_means[slots, -1]
        self._is_done[slots] = is_last | ~(lead > 0)  # also if it is NaN
        is_tie = (lead.abs() <= TIE) | _is_close(best.values) | _is_close(running.values)
        self._ties[slots] += is_tie & ~is_last
        return (parents + torch.arange(len(slots), device=slots.device)[:, None] * beams).flatten()

    def _likely(self, slots: Tensor, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Find the most probable tokens and their log-probabilities, by the rules if there are any."""
        if not any(self._guides):
            return likely_tokens(logits, count)
        beams = len(logits) // len(slots)
        ruled = logits.log_softmax(1).view(len(slots), beams, -1)
        for at, slot in enumerate(slots.tolist()):
            if guide := self._guides[slot]:
                answers = self._ids[slot, :beams, : int(self.counts[slot])]
                ruled[at] = torch.stack([guide(ids, scores) for ids, scores in zip(answers, ruled[at], strict=True)])
        best = ruled.flatten(0, 1).topk(min(count, logits.shape[1]))
        return best.indices, best.values

    def _grown(self, slots: Tensor, parents: Tensor, tokens: Tensor) -> Tensor:
        """Make all ids (B, K, T) of the beams that continue `parents` (B, K) with `tokens` (B, K)."""
        last = (self.counts[slots] - 1)[:, None, None].expand(-1, self.width, 1)
        return self._ids[slots[:, None], parents].scatter(2, last, tokens[:, :, None])

    def _collect(self, slots: Tensor, ids: Tensor, sums: Tensor) -> None:
        """Put answers (B, K, T) into the pool where they are among the best; a sum of -inf is no answer."""
        means = torch.cat([self._pool_means[slots], sums / self.counts[slots, None]], dim=1)
        kept = means.topk(self.width)
        numbers = torch.arange(len(slots), device=slots.device)[:, None]
        self._pool_means[slots] = kept.values
        self._pool_ids[slots] = torch.cat([self._pool_ids[slots], ids], dim=1)[numbers, kept.indices]

    def result(self, slot: int) -> Result:
        first, second = self._pool_means[slot, :2].tolist()
        if not math.isfinite(first):
            return NON_FINITE
        ids = tuple(token for token in self._pool_ids[slot, 0].tolist() if token != NO_TOKEN)
        has_ended = bool((self._end_ids == ids[-1]).any())
        return Decoded(ids, first, has_ended, int(self._ties[slot]) + (first - second <= TIE))


def likely_tokens(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the `count` most probable tokens of each row of `logits` (R, V) and their log-probabilities, (R, C) each.

    The log-probabilities are not finite if a logit of the row is NaN or infinite.
    """
    parts = [_likely_tokens(part, min(count, part.shape[1])) for part in logits.split(ROWS_AT_ONCE)]
    tokens, log_probs = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(log_probs)


def _likely_tokens(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    blocks = F.pad(logits, (0, -logits.shape[1] % BLOCK), value=-torch.inf).view(len(logits), -1, BLOCK)
    near = blocks.amax(2).topk(min(count, blocks.shape[1])).indices  # the blocks that hold them
    numbers = torch.arange(len(logits), device=logits.device)[:, None]
    best = blocks[numbers, near].flatten(1).topk(count)
    tokens = near.gather(1, best.indices // BLOCK) * BLOCK + best.indices % BLOCK
    return tokens, best.values - logits.logsumexp(1, keepdim=True)


def in_place(parents: Tensor) -> Tensor:
    """Order children with `parents` (B, K) so that each parent's first child is at its parent's place: (B, K)."""
    is_further = (parents[:, :, None] == parents[:, None, :]).tril(-1).any(2)
    is_taken = torch.zeros_like(is_further).scatter(1, parents, True)
    free = is_taken.long().argsort(1)  # the places without a child come first
    places = torch.where(is_further, free.gather(1, (is_further.cumsum(1) - 1).clamp(min=0)), parents)
    return places.argsort(1)


def _is_close(sums: Tensor) -> Tensor:
    """Tell whether the last of `sums` (B, K + 1), which is not kept, might as well be (B,)."""
    return sums[:, -2] - sums[:, -1] <= TIE
