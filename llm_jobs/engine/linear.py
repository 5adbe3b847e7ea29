"""Matrix products with a frozen weight, and what is done to their result at once.

On processors with oneDNN the weight is laid out for it once ("prepacked"): 1.25 times as fast with 64 rows, twice with
8, and in float32 1.35 times (measured on one thread of an AMD EPYC). SiLU, the product with another matrix and the sum
with the residual are then part of the matrix product, so the result is not read and written once more.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 64
"""For how many rows oneDNN chooses the layout; 512 gave the same speeds."""


class Projection:
    """x (T, I) to x @ weight.T + bias (T, O)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight, self._bias = weight.detach(), None if bias is None else bias.detach().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)

    def silu(self, x: Tensor) -> Tensor:
        """SiLU of the projection."""
        return F.silu(self(x), inplace=True)

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """The projection times `factor` (T, O), element by element."""
        return self(x).mul_(factor)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """The projection plus `residual` (T, O)."""
        return self(x).add_(residual)


class PackedProjection(Projection):
    """The same by torch's private operators for prepacked weights, which torch.compile emits for frozen ones."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight, bias)
        self._ops: Any = torch.ops.mkldnn
        self._weight = self._ops._reorder_linear_weight(self._weight, ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        return self._unary(x, "none")

    def silu(self, x: Tensor) -> Tensor:
        return self._unary(x, "swish")

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        return self._binary(x, factor, "mul")

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        return self._binary(x, residual, "add")

    def _unary(self, x: Tensor, name: str) -> Tensor:
        return self._ops._linear_pointwise(_two(x), self._weight, self._bias, name, [], "")[: len(x)]

    def _binary(self, x: Tensor, other: Tensor, name: str) -> Tensor:
        return self._ops._linear_pointwise.binary(_two(x), _two(other), self._weight, self._bias, name)[: len(x)]


def _two(x: Tensor) -> Tensor:
    """At least two rows: a single one takes another way through oneDNN, which adds in another order."""
    return x if len(x) > 1 else x.expand(2, -1).contiguous()


def projection_class(like: Tensor) -> type[Projection]:
    """PackedProjection if torch has its operators for the device and dtype of `like`, and they are right."""
    if like.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return Projection
    x, weight = (torch.linspace(-1, 1, 4 * 32).view(4, 32).to(like.dtype) for _ in range(2))
    bias, other = weight[:, 0], x[:, :4].contiguous()
    try:
        packed = PackedProjection(weight, bias)
        found = packed(x), packed.silu(x), packed.times(x, other), packed.plus(x, other)
    except (AttributeError, RuntimeError, TypeError):
        return Projection
    plain = Projection(weight, bias)
    expected = plain(x), plain.silu(x), plain.times(x, other), plain.plus(x, other)
    is_right = all(torch.allclose(*pair, rtol=0.02, atol=0.02) for pair in zip(found, expected, strict=True))
    return PackedProjection if is_right else Projection
