"""Greedy decoding: the most probable token at every step, until an end token or the row's limit.

Shapes: B rows, V vocabulary, T most tokens of an answer.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_jobs.engine.engine import NON_FINITE, TIE, Decoded, Result
from llm_jobs.engine.rules import Guide

BLOCK: Final = 256
"""The best token is looked for in blocks: their maxima are found four times as fast as its place (measured)."""
ROWS_AT_ONCE: Final = 16  # rows whose logits are worked on at once: 3 MB for a vocabulary of 49,152


class Best(NamedTuple):
    """The most probable tokens."""

    tokens: Tensor  # (B,) the first of equals
    log_probs: Tensor  # (B,) not finite if a logit of the row is NaN or infinite
    is_tie: Tensor  # (B,) whether another token is within TIE


def best_tokens(logits: Tensor) -> Best:
    """Find the most probable token of each row of `logits` (B, V), which are float32 and may be overwritten."""
    parts = [_best(part) for part in logits.split(ROWS_AT_ONCE if logits.device.type == "cpu" else len(logits))]
    return Best(*map(torch.cat, zip(*parts, strict=True)))


def _best(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    missing = -logits.shape[1] % BLOCK
    logits = F.pad(logits, (0, missing), value=-torch.inf) if missing else logits
    blocks = logits.view(len(logits), -1, BLOCK)
    greatest = blocks.amax(2)
    best, block = greatest.max(1)
    winner = blocks[torch.arange(len(blocks), device=blocks.device), block]  # (B, BLOCK)
    near = (best - TIE)[:, None]
    # The best itself is counted once among the blocks and once in its own.
    is_tie = (greatest >= near).sum(1) + (winner >= near).sum(1) > 2
    tokens = block * BLOCK + winner.argmax(1)
    return tokens, -blocks.sub_(best[:, None, None]).exp_().sum((1, 2)).log_(), is_tie


class Search:
    """The answers that grow in some slots, each of which may be given to another request: what both searches keep."""

    def __init__(self, slots: int, end_ids: Tensor) -> None:
        self._end_ids = end_ids
        self.counts = end_ids.new_zeros(slots)
        """(slots,) tokens of each answer."""
        self._ties, self._limits, self._is_done = self.counts.clone(), self.counts.clone(), ~self.counts.bool()
        self._guides: list[Guide | None] = [None] * slots

    def start(self, slots: Tensor, limits: Sequence[int], guides: Sequence[Guide | None]) -> None:
        """Begin new answers of at most so many tokens."""
        for slot, guide in zip(slots.tolist(), guides, strict=True):
            self._guides[slot] = guide
        for state in (self.counts, self._ties, self._is_done):
            state[slots] = 0
        self._limits[slots] = torch.tensor(limits, device=slots.device)

    def going(self, slots: Tensor) -> Tensor:
        """Tell which of `slots` are not done."""
        return ~self._is_done[slots]

    def done(self, slots: int) -> list[int]:
        return self._is_done[:slots].nonzero().flatten().tolist()

    def move(self, source: int, target: int) -> None:
        """Give a slot the place of another."""
        for state in vars(self).values():
            if isinstance(state, Tensor) and state is not self._end_ids:
                state[target] = state[source]
        self._guides[target] = self._guides[source]


class GreedySearch(Search):
    """Grows the greedy answers of many rows, each a slot.

    No call costs more Python work for more rows, but `result`; `add` and `next_tokens` wait for no number of a GPU, if
    no request has a guide.
    """

    width: Final = 1  # rows of a slot

    def __init__(self, rows: int, longest: int, end_ids: Tensor) -> None:
        super().__init__(rows, end_ids)
        self._tokens = self.counts.clone()  # (B,) the last token of each row
        self._ids = end_ids.new_zeros(rows, longest + 1)  # the last column takes what is not wanted
        self._scores, self._has_ended = self.counts.float(), self.counts.bool()

    def start(self, slots: Tensor, limits: Sequence[int], guides: Sequence[Guide | None]) -> None:
        super().start(slots, limits, guides)
        self._scores[slots] = 0

    def next_tokens(self, rows: Tensor) -> Tensor:
        """Give the tokens (B,) that the LLM reads next."""
        return self._tokens[rows]

    def add(self, rows: Tensor, logits: Tensor) -> None:
        """Add the most probable token of each row's logits (B, V); a row that is done is left as it is."""
        best, going, counts = self._best(rows, logits), self.going(rows), self.counts[rows]
        self._tokens[rows] = best.tokens
        self._ids[rows, counts.where(going, self._ids.shape[1] - 1)] = best.tokens
        self.counts[rows] = counts = counts + going
        self._scores[rows] += best.log_probs.where(going, 0)
        self._ties[rows] += best.is_tie & going
        is_end = (best.tokens[:, None] == self._end_ids).any(1)  # torch.isin waits for a GPU if there are many end ids
        self._has_ended[rows] = is_end.where(going, self._has_ended[rows])
        self._is_done[rows] = ~going | is_end | (counts >= self._limits[rows]) | ~best.log_probs.isfinite()

    def _best(self, rows: Tensor, logits: Tensor) -> Best:
        """Find the best tokens by the rules; their log-probabilities are the model's own."""
        if not any(self._guides):
            return best_tokens(logits)
        guides = [self._guides[row] for row in rows.tolist()]
        answers = zip(self._ids[rows], self.counts[rows].tolist(), strict=True)
        ruled = [
            scores if guide is None else guide(ids[:count], scores)
            for guide, (ids, count), scores in zip(guides, answers, logits, strict=True)
        ]
        best = best_tokens(torch.stack(ruled))
        log_probs = logits.gather(1, best.tokens[:, None])[:, 0] - logits.logsumexp(1)
        return best._replace(log_probs=log_probs)

    def result(self, row: int) -> Result:
        count = int(self.counts[row])
        mean = float(self._scores[row]) / count
        if not abs(mean) < float("inf"):  # true for NaN too
            return NON_FINITE
        ids: list[int] = self._ids[row, :count].tolist()
        return Decoded(tuple(ids), mean, bool(self._has_ended[row]), int(self._ties[row]))
