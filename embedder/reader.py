"""Read a user and a task: the features that a soft prompt is made of.

    task vector ─▶ query ─┬───────────────────────────────────────┐
    history vectors ──────┴─▶ weights ─▶ weighted sum ─┐          │
              └─────────────▶ plain mean ──────────────┤          │
    mean of the newest items ──────────────────────────┴─ joined ◀┘

What differs from the paper's aggregator (PPlug, arXiv 2409.11901, equations 3 and 4): the weights have a learned
projection and temperature (unit vectors without one give nearly a plain mean) and count how many items stand behind a
vector; what is near the task, what the user does on the whole and lately, and the task itself stand side by side; and a
learned default answers users without a history. docs/experiments.md says what each is worth.
"""

import math

import torch
from torch import Tensor, nn

from embedder.plug_config import PlugConfig


class HistoryWeights(nn.Module):
    """Weigh a user's vectors by how near they are to the task at hand.

    Shapes: B users, H vectors, D = vector width.
        task     (B, D)     encoded task input
        vectors  (B, H, D)  history vectors; padding may hold any finite number
        counts   (B, H)     items behind each vector; 0 marks padding; at least one above 0 per user
        returns  (B, H)     weights that sum to one over H
    """

    def __init__(self, width: int, temperature: float) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.query.weight)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def forward(self, task: Tensor, vectors: Tensor, counts: Tensor) -> Tensor:
        scores = torch.einsum("bd,bhd->bh", self.query(task), vectors) / self.log_temperature.exp()  # (B, H)
        return (scores + counts.log()).softmax(-1)  # log 0 = -inf: padding weighs nothing


class Reader(nn.Module):
    """Features of users and tasks. Shapes as of `PersonaPlug`; J = `width`.

    returns  (B, J)  what is seen, side by side; entries about of unit size
             (B, H)  weights over `vectors`; they sum to one, or to zero without a history
    """

    def __init__(self, config: PlugConfig) -> None:
        super().__init__()
        self._seen = config.seen
        self.width = len(self._seen) * config.encoder_width
        if "attended" in self._seen:
            self.weights = HistoryWeights(config.encoder_width, config.temperature)
        self.default = nn.Parameter(torch.randn(config.encoder_width) / math.sqrt(config.encoder_width))

    def forward(self, task: Tensor, vectors: Tensor, counts: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
        shares = shares_of(counts)
        # One more slot holds the learned default; it counts only for users without a history.
        is_new = (counts.sum(1, keepdim=True) == 0).to(counts.dtype)
        counts, shares = torch.cat([counts, is_new], dim=1), torch.cat([shares, is_new], dim=1)
        vectors = torch.cat([vectors, self.default.expand(len(task), 1, -1)], dim=1)  # (B, H + 1, D)
        weights = self.weights(task, vectors, counts) if "attended" in self._seen else shares
        seen = {
            "attended": torch.einsum("bh,bhd->bd", weights, vectors),
            "mean": torch.einsum("bh,bhd->bd", shares, vectors),
            "recent": torch.where(is_new > 0, self.default, recent),
            "task": task,
        }
        joined = torch.cat([seen[name] for name in self._seen], dim=1)  # (B, J)
        return joined * math.sqrt(joined.shape[1]) / len(self._seen), weights[:, :-1]  # unit vectors to unit entries


def shares_of(counts: Tensor) -> Tensor:
    """(B, H) the share of a user's items behind each vector; all zero without a history."""
    return counts / counts.sum(1, keepdim=True).clamp(min=1)
