"""The head of free answers: features of a user and a task become soft prompt vectors for a frozen LLM.

    features ─┬─▶ hidden layer ─┐
              └─▶ straight ─────┴─▶ scaled to the LLM ─┐
    instruction vectors (the same for everybody) ──────┴─▶ soft prompt

It is trained through the LLM as a whole, with the next-token loss on what users really wrote.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedder.plug_config import PlugConfig


class SoftPromptHead(nn.Module):
    """Shapes: B users, J features, E = LLM width, I = instruction vectors, P = persona vectors.

    features  (B, J)         what the reader saw; None with the aggregation "none", which sees nothing
    returns   (B, I + P, E)  soft prompt, float32; P is 0 with the aggregation "none"
    """

    STAGES: Final = ("llm",)
    """Stages of its training (llm_jobs/training/fit.py)."""
    STOPS_EARLY: Final = True
    """Whether its training stops by the loss on held-out users, who are then in no other part of it."""

    def __init__(self, config: PlugConfig, features: int) -> None:
        super().__init__()
        self._width = config.llm_width
        directions = F.normalize(torch.randn(config.instruction_count, config.llm_width), dim=-1)
        self.instruction = nn.Parameter(directions * config.embedding_norm)
        if features:
            made = config.persona_count * config.llm_width
            self.hidden = nn.Sequential(nn.Linear(features, config.llm_width), nn.GELU(), nn.Dropout(config.dropout))
            self.project = nn.Linear(config.llm_width, made)
            self.straight = nn.Linear(features, made, bias=False)
            self.gain = nn.Parameter(torch.full((config.persona_count, 1), config.embedding_norm))

    def forward(self, features: Tensor | None, count: int) -> Tensor:
        """The soft prompts of `count` users."""
        instruction = self.instruction.expand(count, -1, -1)  # (B, I, E)
        if features is None:
            return instruction
        made = self.project(self.hidden(features)) + self.straight(features)
        directions = made.view(count, -1, self._width)
        return torch.cat([instruction, F.normalize(directions, dim=-1) * self.gain], dim=1)
