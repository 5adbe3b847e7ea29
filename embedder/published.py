"""The plug as its authors published it, to be compared with: PPlug, arXiv 2409.11901, equations 3 to 5.

    task ─▶ softmax of plain inner products with the items ─┐
    items ─▶ projector, each by itself ─────────────────────┴─▶ weighted sum ─▶ one persona vector ─┐
    one trained vector ─▶ projector of its own ─▶ one instruction vector ───────────────────────────┴─▶ before the input

Nothing here is ours but what cannot be theirs: their text encoder of the input is tuned with the projectors, ours gives
vectors that are made beforehand; their lengths are scaled to one LLM, here to any (the mean norm of its embeddings);
and a user without a history, for whom theirs has no number, has a persona vector of zeros.
"""

from typing import Final

import torch
from torch import Tensor, nn

from embedder.plug_config import PlugConfig


class PublishedHead(nn.Module):
    """Shapes as of `PersonaPlug`; the soft prompt is (B, 2, E): the instruction vector, then the persona vector."""

    STAGES: Final = ("llm",)
    """Stages of its training (llm_jobs/training/fit.py)."""
    STOPS_EARLY: Final = True
    """Whether its training stops by the loss on held-out users, who are then in no other part of it."""

    def __init__(self, config: PlugConfig) -> None:
        super().__init__()
        self.project = projector(config.encoder_width, config.llm_width)
        self.instruction = nn.Parameter(torch.rand(config.encoder_width))
        self.project_instruction = projector(config.encoder_width, config.llm_width)
        with torch.no_grad():
            start = self.project_instruction(self.instruction).norm()
        self.scale = nn.Buffer(config.embedding_norm / start.clamp(min=1e-6))
        """Their 539.97 / 7.0, measured: the instruction vector starts at the length of the LLM's embeddings."""

    def forward(self, task: Tensor, vectors: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.einsum("bd,bhd->bh", task, vectors) + counts.log()  # log 0 = -inf: padding weighs nothing
        has_history = counts.sum(1, keepdim=True) > 0
        weights = torch.where(has_history, scores, torch.zeros(())).softmax(-1) * has_history
        persona = torch.einsum("bh,bhe->be", weights, self.project(vectors)) * self.scale
        instruction = (self.project_instruction(self.instruction) * self.scale).expand(len(task), -1)
        return torch.stack([instruction, persona], dim=1), weights


def projector(width: int, llm_width: int) -> nn.Sequential:
    """Two layers, the first as wide as the LLM."""
    return nn.Sequential(nn.Linear(width, llm_width), nn.GELU(), nn.Linear(llm_width, llm_width))
