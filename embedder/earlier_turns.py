"""The head without a soft prompt: the user's nearest items are earlier turns instead (llm_jobs/turns.py)."""

from typing import Final

from torch import nn


class TurnsHead(nn.Module):
    """It has no weights, so there is nothing to train, and nothing to compute: the LLM reads the items themselves."""

    STAGES: Final[tuple[str, ...]] = ()
    """Stages of its training."""
    STOPS_EARLY: Final = False
    """Whether its training stops by the loss on held-out users."""
