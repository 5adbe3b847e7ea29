"""One optimizer step after another: AdamW over some weights, its learning rate warmed up and then lowered to 0."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from embedder.errors import PplugError
from llm_jobs.training.data import TrainConfig

LONGEST_STEP = 1.0
"""L2 norm that a gradient is cut to."""


class Descent:
    """What changes the weights, and how far it is."""

    def __init__(self, weights: Sequence[nn.Parameter], config: TrainConfig, steps: int, kind: str) -> None:
        self._weights, self._kind = list(weights), kind
        self.optimizer = AdamW(self._weights, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.schedule = LambdaLR(self.optimizer, lambda step: learning_rate_share(step, steps))
        self.steps = steps
        """Steps there will be."""
        self.step = 0
        """Steps done."""

    def descend(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`.

        Raises:
            PplugError: if loss or gradient is not finite; the weights are as before.
        """
        self.require_finite("loss", loss.item())
        self.optimizer.zero_grad()
        loss.backward()
        self.require_finite("gradient", torch.nn.utils.clip_grad_norm_(self._weights, LONGEST_STEP).item())
        self.optimizer.step()
        self.schedule.step()
        self.step += 1

    def require_finite(self, what: str, value: float) -> None:
        """Stop a training that cannot get anywhere any more.

        Raises:
            PplugError: naming the kind and the step.
        """
        if not math.isfinite(value):
            raise PplugError(
                f"the {what} of the plug of kind {self._kind} is {value} at step {self.step + 1} of {self.steps}: "
                "train again with `pplug train --llm-dtype float32` or another --seed"
            )


def learning_rate_share(step: int, steps: int) -> float:
    """Linear warm-up over the first 5% of the steps (the paper's ratio), then a cosine down to 0."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
