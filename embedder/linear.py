"""Matrix products with a frozen weight, and what is done to their result at once.

On processors with oneDNN the weight is laid out for it once ("prepacked"): 1.25 times as fast with 64 rows, twice with
8, and in float32 1.35 times (measured on one thread of an AMD EPYC). GELU, SiLU, the product with another matrix and
the sum with the residual are then part of the matrix product, so the result is not read and written once more.
"""

from functools import lru_cache
from typing import Any, ClassVar, Final

import torch
from torch import Tensor
from torch.nn import functional as F

LAYOUT_ROWS: Final = 512  # for how many rows oneDNN chooses the layout; 64 gave the same speeds


class Projection:
    """x (T, I) to x @ weight.T + bias (T, O)."""

    kernel: ClassVar = "torch"  # what computes it

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight, self._bias = weight.detach(), None if bias is None else bias.detach().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(self(x), inplace=True)

    def gelu(self, x: Tensor, approximate: str) -> Tensor:
        return F.gelu(self(x), approximate=approximate)

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """Multiply the projection by `factor` (T, O), element by element."""
        return self(x).mul_(factor)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Add `residual` to the projection (T, O)."""
        return self(x).add_(residual)


class PackedProjection(Projection):
    """The same by torch's private operators for prepacked weights, which torch.compile emits for frozen ones."""

    kernel: ClassVar = "onednn"

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight, bias)
        self._ops: Any = torch.ops.mkldnn
        self._weight = self._ops._reorder_linear_weight(self._weight, LAYOUT_ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        return self._unary(x, "none")

    def silu(self, x: Tensor) -> Tensor:
        return self._unary(x, "swish")

    def gelu(self, x: Tensor, approximate: str) -> Tensor:
        return self._unary(x, "gelu", approximate)

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        return self._binary(x, factor, "mul")

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        return self._binary(x, residual, "add")

    def _unary(self, x: Tensor, name: str, variant: str = "") -> Tensor:
        return self._ops._linear_pointwise(_two(x), self._weight, self._bias, name, [], variant)[: len(x)]

    def _binary(self, x: Tensor, other: Tensor, name: str) -> Tensor:
        return self._ops._linear_pointwise.binary(_two(x), _two(other), self._weight, self._bias, name)[: len(x)]


def _two(x: Tensor) -> Tensor:
    """Make it at least two rows: a single one takes another way through oneDNN, which adds in another order."""
    return x if len(x) > 1 else x.expand(2, -1).contiguous()


def projection_class(like: Tensor) -> type[Projection]:
    """Choose PackedProjection if torch has its operators for the device and dtype of `like`, and they are right."""
    return _projection_class(like.dtype) if like.device.type == "cpu" else Projection


@lru_cache(maxsize=4)
def _projection_class(dtype: torch.dtype) -> type[Projection]:
    if not torch.backends.mkldnn.is_available():
        return Projection
    x, weight = (torch.linspace(-1, 1, 4 * 32).view(4, 32).to(dtype) for _ in range(2))
    other = x[:, :4].contiguous()
    try:
        packed = _products(PackedProjection(weight, weight[:, 0]), x, other)
    except (AttributeError, RuntimeError, TypeError):
        return Projection
    plain = _products(Projection(weight, weight[:, 0]), x, other)
    is_right = all(torch.allclose(*pair, rtol=0.02, atol=0.02) for pair in zip(packed, plain, strict=True))
    return PackedProjection if is_right else Projection


def _products(of: Projection, x: Tensor, other: Tensor) -> list[Tensor]:
    return [of(x), of.silu(x), of.gelu(x, "none"), of.gelu(x, "tanh"), of.times(x, other), of.plus(x, other)]
