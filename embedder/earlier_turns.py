"""The head without a soft prompt: the user's nearest items are earlier turns instead (llm_jobs/turns.py)."""

from typing import Final

import torch
from torch import Tensor, nn

from embedder.plug_config import PlugConfig


class TurnsHead(nn.Module):
    """It has no weights, so there is nothing to train.

    Shapes: B users, E = LLM width; returns (B, 0, E), a soft prompt of no vectors.
    """

    STAGES: Final[tuple[str, ...]] = ()
    """Stages of its training."""
    STOPS_EARLY: Final = False
    """Whether its training stops by the loss on held-out users."""

    def __init__(self, config: PlugConfig) -> None:
        super().__init__()
        self._width = config.llm_width

    def forward(self, count: int) -> Tensor:
        """The soft prompts of `count` users."""
        return torch.zeros(count, 0, self._width)
