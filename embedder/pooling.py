"""How the token states of a text become one vector."""

from enum import StrEnum

import torch
from torch import Tensor


class Pooling(StrEnum):
    """How the token states of a text become one vector."""

    MEAN = "mean"
    CLS = "cls"
    MAX = "max"
    LAST = "lasttoken"


def pool(states: Tensor, pooling: Pooling) -> Tensor:
    """Pool texts of equal length.

    Shapes: n texts, l tokens each, no padding, d = width.
        states   (l, n, d)  last hidden states, any float dtype
        returns  (n, d)     float32, not normalised
    """
    match pooling:
        case Pooling.MEAN:
            return states.mean(0, dtype=torch.float32)
        case Pooling.CLS:
            return states[0].float()
        case Pooling.MAX:
            return states.amax(0).float()
        case Pooling.LAST:
            return states[-1].float()
