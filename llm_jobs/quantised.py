"""Frozen weights in 8 or 4 bits, by torchao (the extra `quantised`): a half or a quarter of the memory.

Only the matrices of the layers are made smaller; embeddings and the last matrix stay as they are. Gradients go through
to the soft prompt; torch's product with 4 bits on a GPU has none, so that of FrozenLinear is used. On a CPU 4 bits are
kept in 8, so that there is nothing to gain but a look at the answers.
"""

from importlib import import_module
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedder.errors import InputMissing, UsageError

INSTALL: Final = "pip install 'pplug[quantised]'"

GROUP: Final = 32  # weights that share a scale in 4 bits


def quantise(model: Any, dtype: str) -> None:
    """Make the frozen weights of a model int8 or int4 in place; it stays on its device, and computes in its precision.

    Raises:
        InputMissing: if torchao is not installed.
        UsageError: for a device that torchao has no 4 bits for, as a GPU without bfloat16.
    """
    try:
        torchao: Any = import_module("torchao.quantization")
    except ImportError as error:
        raise InputMissing(f"--llm-dtype {dtype} needs torchao: run `{INSTALL}`") from error
    device = model.device.type
    if dtype == "int8":
        config = torchao.Int8WeightOnlyConfig()
    elif device == "cuda" and model.dtype == torch.bfloat16:
        config = torchao.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
    elif device == "cpu":
        bits: Any = vars(torch)["int4"]
        config = torchao.IntxWeightOnlyConfig(weight_dtype=bits, granularity=torchao.PerGroup(GROUP))
    else:
        raise UsageError(f"there is no --llm-dtype int4 on {device}: use int8")
    head = model.get_output_embeddings()

    def is_chosen(module: nn.Module, _: str) -> bool:  # a matrix whose rows are whole groups
        return isinstance(module, nn.Linear) and module.in_features % GROUP == 0 and module is not head

    chosen = [module for module in model.modules() if is_chosen(module, "")]
    torchao.quantize_(model, config, is_chosen)
    if dtype == "int4" and device == "cuda":
        for module in chosen:
            module.__class__ = FrozenLinear


class FrozenLinear(nn.Linear):
    """A layer whose weight never changes, with a gradient by its input whatever computes the product.

    Shapes: I inputs, O outputs.
        x        (..., I)
        returns  (..., O)
    """

    def forward(self, input: Tensor) -> Tensor:
        return _Product.apply(input, self.weight, self.bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        unit = torch.eye(ctx.weight.shape[1], dtype=gradient.dtype, device=gradient.device)
        return gradient @ F.linear(unit, ctx.weight).T, None, None  # what it makes of unit vectors is the weight (I, O)
