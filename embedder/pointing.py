"""The head of closed answers: it points at what the user did before instead of remembering who does what.

    task ─▶ text bodies: log p(label) for anybody ──────────┐
    history ─▶ evidence of each choice (evidence.py) ───────┼─▶ (B, C, F) ─▶ scorers of any choice ─▶ log p(choice)
    cosine of the task and the choice's own name ───────────┘

A scorer sees a choice by what the history says of it, never by its name, so what it learns of one user's labels holds
for another's, and for labels that no training ever saw; the size of the history is one of the features, so that short
ones lean on what everybody does. Only the text bodies know labels by name. Each is fitted without a fold of the users,
so that scorers learn from log-probabilities of bodies that have not met the user (stacked generalization, Wolpert
1992, doi 10.1016/S0893-6080(05)80023-1); tasks get the mean of all bodies, and of all
scorers. Nothing goes through the LLM.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedder.evidence import COLUMNS, NEWEST, SHARPNESSES, Evidence
from embedder.hashing import hash_share
from embedder.plug_config import PlugConfig

FEATURES: Final = 4 + 2 + len(SHARPNESSES) + 1 + len(NEWEST) + 2 + 1 + 5
"""F: what a scorer sees of a choice; `choice_features` lists it."""

SCORERS: Final = 3
"""S: networks whose probabilities are averaged (docs/experiments.md, 2026-11-28)."""

HIDDEN: Final = 32
"""Units of each."""

UNKNOWN: Final = -8.0
"""Log-probability by the text bodies, and in the prior, of a label that training never saw."""


class ChoiceBatch(NamedTuple):
    """B tasks that have the same C choices."""

    evidence: Tensor
    """(B, C, E) see `embedder.evidence.COLUMNS`."""
    sizes: Tensor
    """(B, 2) labelled items of the user, and the greatest cosine of the task and one of them."""
    named: Tensor
    """(B, C) cosine of the task and the choice's own name."""

    @classmethod
    def of(cls, found: Sequence[Evidence], named: Tensor) -> Self:
        """Of one evidence for each task."""
        evidence = torch.from_numpy(np.stack([one.choices for one in found]))
        sizes = torch.tensor([[one.labelled, one.nearest] for one in found], dtype=torch.float32)
        return cls(evidence, sizes, named)


class Standardised(nn.Module):
    """Numbers (n, V) as deviations from those of the examples of a training; all together about of unit norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(width))
        self.deviation = nn.Buffer(torch.ones(width))

    def fit(self, values: Tensor) -> None:
        """Give these (n, V) the mean 0 and the deviation 1 from now on."""
        self.mean.copy_(values.mean(0))
        self.deviation.copy_(values.std(0, correction=0).clamp(min=1e-6))

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.deviation / math.sqrt(values.shape[1])


class Scorers(nn.Module):
    """Small networks side by side, each with a straight path: features (..., F) become scores (..., S)."""

    def __init__(self) -> None:
        super().__init__()
        self.straight = nn.Linear(FEATURES, SCORERS)
        self.hidden = nn.Linear(FEATURES, SCORERS * HIDDEN)
        self.out = nn.Parameter(torch.empty(SCORERS, HIDDEN).uniform_(-1, 1) / math.sqrt(HIDDEN))

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.gelu(self.hidden(features)).unflatten(-1, (SCORERS, HIDDEN))
        return self.straight(features) + (hidden * self.out).sum(-1)


class PointingHead(nn.Module):
    """Shapes: B tasks, C choices, L labels of the training, K text bodies, X = D + V what a body sees, F features."""

    STAGES: Final = ("text", "scorers")
    """Stages of its training (llm_jobs/training/fit.py); neither needs the LLM."""
    STOPS_EARLY: Final = False
    """Whether its training stops by the loss on held-out users, who are then in no other part of it."""

    def __init__(self, config: PlugConfig) -> None:
        super().__init__()
        self.labels = config.labels
        seen = config.encoder_width + config.values_width
        self.text_weight = nn.Parameter(torch.zeros(config.committee, seen, len(config.labels)))  # (K, X, L)
        self.text_bias = nn.Parameter(torch.zeros(config.committee, len(config.labels)))
        self.log_prior = nn.Buffer(torch.full((len(config.labels),), -math.log(len(config.labels))))
        """Share of each label, every user counting alike."""
        if config.values_width:
            self.values = Standardised(config.values_width)
        self.feature_mean = nn.Buffer(torch.zeros(FEATURES))
        self.feature_deviation = nn.Buffer(torch.ones(FEATURES))
        self.scorers = Scorers()

    def body_without(self, user_id: str) -> int:
        """The body that is fitted without a user."""
        return int(hash_share(f"text body {user_id}") * len(self.text_weight))

    def seen(self, task: Tensor, values: Tensor | None) -> Tensor:
        """(B, X) what the text bodies see of tasks (B, D) and the LLM's values of their prompts (B, V)."""
        return task if values is None else torch.cat([task, self.values(values)], dim=1)

    def text_log_probs(self, seen: Tensor, bodies: Tensor | None = None) -> Tensor:
        """(B, L) log-probability of each label for anybody: of all bodies, or with `bodies` (B,) of one each."""
        scores = torch.einsum("bx,kxl->kbl", seen, self.text_weight) + self.text_bias[:, None]
        log_probs = scores.log_softmax(-1)  # (K, B, L)
        if bodies is None:
            return log_probs.mean(0).log_softmax(-1)
        return log_probs[bodies, torch.arange(len(seen))]

    def of_choices(self, by_label: Tensor, choices: Sequence[str]) -> Tensor:
        """(..., C) of numbers by label (..., L) those of the choices; UNKNOWN for one that is no label."""
        place = {label: at for at, label in enumerate(self.labels)}
        padded = torch.cat([by_label, by_label.new_full((*by_label.shape[:-1], 1), UNKNOWN)], dim=-1)
        return padded[..., [place.get(choice, len(self.labels)) for choice in choices]].clamp(min=UNKNOWN)

    def each(self, features: Tensor) -> Tensor:
        """(B, C, S) log-probability of each choice by each scorer, of the features (B, C, F)."""
        return self.scorers((features - self.feature_mean) / self.feature_deviation).log_softmax(1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C) log-probability of each choice, of the features (B, C, F)."""
        return self.each(features).logsumexp(-1) - math.log(SCORERS)

    @torch.no_grad()
    def log_probs(self, task: Tensor, values: Tensor | None, batch: ChoiceBatch, choices: Sequence[str]) -> Tensor:
        """(B, C) log-probability of each choice of tasks (B, D), with the LLM's values (B, V) where it sees them."""
        text = self.of_choices(self.text_log_probs(self.seen(task, values)), choices)
        return self(choice_features(batch, text, self.of_choices(self.log_prior, choices).expand_as(text)))


def choice_features(batch: ChoiceBatch, text: Tensor, log_prior: Tensor) -> Tensor:
    """(B, C, F) what a scorer sees.

    Args:
        batch: what histories say.
        text: (B, C) log-probability for anybody by the text bodies.
        log_prior: (B, C) the same without looking at the task.
    """
    items = batch.evidence[..., 0]
    count = batch.sizes[:, :1].expand_as(items)  # (B, C)
    prior = log_prior.exp()

    def smoothed(shares: Tensor, weight: Tensor, strength: float = 1.0) -> Tensor:
        """The logarithm of shares that are drawn towards everybody's, the more so the fewer items are behind them."""
        return ((weight * shares + strength * prior) / (weight + strength)).log()

    by_name = {name: batch.evidence[..., at] for at, name in enumerate(COLUMNS)}
    share = items / count.clamp(min=1)
    own = smoothed(share, count)
    newest = [by_name[f"newest {k}"] for k in NEWEST]
    features = [
        text,
        log_prior,
        batch.named,
        (text <= UNKNOWN).to(text.dtype),
        own,
        smoothed(share, count, 5.0),
        *(smoothed(by_name[f"vote {beta:g}"], count) for beta in SHARPNESSES),
        by_name["nearness"],
        *newest,
        *(smoothed(shares, count.clamp(max=k)) for shares, k in zip(newest[1:], NEWEST[1:], strict=True)),
        by_name["last"],
        (items > 0).to(text.dtype),
        items.log1p(),
        count.log1p(),
        batch.sizes[:, 1:].expand_as(items),
        -(own.exp() * own).sum(1, keepdim=True).expand_as(items),
    ]
    return torch.stack(features, dim=-1)
