"""Greedy decoding of a batch: the most probable token at every step, until an end token or the row's limit.

Shapes: B rows, V vocabulary, T steps. Rows that are done leave the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .prompts import Refusal

Ids = tuple[int, ...]

KEPT_SHARE = 0.75
"""Finished rows are dropped once no more than this share still runs: dropping copies the cache of the others."""


@dataclass(frozen=True)
class Decoded:
    """An answer in token ids."""

    ids: Ids
    """The end token included if there is one."""
    score: float
    """Mean log-probability of `ids`."""
    has_ended: bool
    """Whether the last token is an end token."""


class Steps(Protocol):
    """A batch that the LLM can be asked to continue."""

    def next(self, tokens: Tensor) -> Tensor:
        """Append one token (B,) to every row; logits (B, V) of what follows, float32."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        ...


NON_FINITE = Refusal("non_finite_logits", "the LLM's logits are not finite numbers")


def greedy(logits: Tensor, steps: Steps, limits: Sequence[int], end_ids: Tensor) -> list[Decoded | Refusal]:
    """Continue each row of `logits` (B, V), the first prediction, by at most limits[row] tokens (at least 1)."""
    longest = max(limits)
    left = torch.tensor(limits, device=logits.device)
    ids = torch.zeros(len(limits), longest, dtype=torch.long, device=logits.device)  # (B, T)
    log_probs = torch.zeros(len(limits), longest, device=logits.device)  # (B, T); NaN marks a refused row
    counts = torch.zeros_like(left)
    has_ended = torch.zeros_like(left, dtype=torch.bool)
    rows = torch.arange(len(limits), device=logits.device)  # row of the result behind each row of the batch
    going = torch.ones_like(has_ended)
    for step in range(longest):
        best, tokens = logits.max(dim=1)
        running, chosen = rows[going], tokens[going]
        ids[running, step] = chosen
        log_probs[running, step] = (best - logits.logsumexp(dim=1))[going]
        counts[running] += 1
        has_ended[running] = torch.isin(chosen, end_ids)
        is_lost = ~log_probs[running, step].isfinite()
        going[going.clone()] = ~(has_ended[running] | is_lost | (counts[running] >= left[running]))
        still = int(going.sum())
        if not still:
            break
        if still <= KEPT_SHARE * len(rows):
            steps.keep(going.nonzero().flatten())
            rows, tokens = rows[going], tokens[going]
            going = torch.ones_like(rows, dtype=torch.bool)
        logits = steps.next(tokens)
    return _results(ids, log_probs, counts, has_ended)


def _results(ids: Tensor, log_probs: Tensor, counts: Tensor, has_ended: Tensor) -> list[Decoded | Refusal]:
    means: list[float] = (log_probs.sum(1) / counts).tolist()
    found: list[Decoded | Refusal] = []
    for row, mean, count, ended in zip(ids.tolist(), means, counts.tolist(), has_ended.tolist(), strict=True):
        is_finite = abs(mean) < float("inf")  # false for NaN too
        found.append(Decoded(tuple(row[:count]), mean, ended) if is_finite else NON_FINITE)
    return found
