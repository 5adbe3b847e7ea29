"""Which precision a model runs in: the one asked for, or the faster one of this processor.

    dtype "auto" ─▶ shapes of the model's weights ─▶ both precisions timed ─▶ float32 or bfloat16

A processor may have instructions for bfloat16 and still multiply float32 faster, so that only a measurement tells. It
takes about 0.1 seconds, once per process and model.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import get_args

import torch
from safetensors import SafetensorError, safe_open

from embedder.devices import LLMDtype, Precision, chosen_device, has_bfloat16
from embedder.errors import PplugError, UsageError
from embedder.linear import projection_class

logger = logging.getLogger(__name__)

MARGIN = 1.15  # bfloat16 is taken if it is so many times as fast: less may be noise, and float32 is exact
ROUNDS = 5  # both precisions are timed in turn so many times, and medians compared
TIMED_ROWS = 256  # tokens that are multiplied together
MOST_SHAPES = 4  # shapes that are timed: those with the most multiplications
MOST_SIDE = 2048  # of a timed matrix: larger ones are no different, and take long

SMALL = 1_000_000
"""Multiplications a token below which a model is not worth a measurement; MiniLM has ten times as many."""

Shapes = tuple[tuple[int, int, int], ...]  # (outputs, inputs, how often) of a model's matrices


def decided_precision(dtype: LLMDtype, folder: Path, device: str = "cpu") -> Precision:
    """Decide on the precision that a model computes in: the one asked for, where the device has it.

    `auto` is bfloat16 on a GPU that has it, and on the CPU what is faster for the model in this folder; weights of 8 or
    4 bits are multiplied in bfloat16.

    Raises:
        UsageError: for an unknown precision, or one that is for GPUs only.
    """
    if dtype not in get_args(LLMDtype):
        raise UsageError(f"dtype must be one of {', '.join(get_args(LLMDtype))}, not {dtype!r}")
    kind = chosen_device(device).type
    if dtype == "float16" and kind == "cpu":
        raise UsageError("dtype float16 is for GPUs: use bfloat16 or float32 on a CPU")
    if dtype == "auto" and kind == "cpu":
        return faster_precision(matrix_shapes(folder))
    if dtype in ("float32", "float16"):
        return dtype
    if has_bfloat16(device):
        return "bfloat16"
    if dtype != "auto":
        logger.warning("%s runs in float32: this processor has no bfloat16 instructions", folder)
    return "float32"


def matrix_shapes(folder: Path) -> Shapes:
    """List the shapes of the weights that tokens are multiplied with, those with the most multiplications first."""
    shapes = Counter[tuple[int, int]]()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as tensors:
                found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise PplugError(f"model {folder} cannot be loaded ({path.name}: {error}): choose another model") from error
        shapes.update(shape for name, shape in found.items() if len(shape) == 2 and "embed" not in name)
    counted = [(outputs, inputs, count) for (outputs, inputs), count in shapes.items()]
    return tuple(sorted(counted, key=lambda shape: (-shape[0] * shape[1] * shape[2], shape)))


def faster_precision(shapes: Shapes) -> Precision:
    """Tell the faster precision for matrices of these shapes; float32 for a model too small to tell."""
    if sum(outputs * inputs * count for outputs, inputs, count in shapes) < SMALL or not has_bfloat16():
        return "float32"
    return _measured(shapes[:MOST_SHAPES], torch.get_num_threads())


@lru_cache(maxsize=16)
def _measured(shapes: Shapes, threads: int) -> Precision:
    del threads  # with another number it is measured again
    seconds = {dtype: [0.0] * ROUNDS for dtype in (torch.float32, torch.bfloat16)}
    for outputs, inputs, count in shapes:
        size = min(outputs, MOST_SIDE), min(inputs, MOST_SIDE)
        for dtype, rounds in timed_products(*size).items():
            seconds[dtype] = [total + count * one for total, one in zip(seconds[dtype], rounds, strict=True)]
    return chosen(seconds[torch.float32], seconds[torch.bfloat16])


@torch.inference_mode()
def timed_products(outputs: int, inputs: int) -> dict[torch.dtype, list[float]]:
    """Measure processor seconds of a product, by precision, in rounds that take turns; nothing else counts."""
    weight, bias, x = torch.randn(outputs, inputs), torch.zeros(outputs), torch.randn(TIMED_ROWS, inputs)
    layers = {
        dtype: (projection_class(x.to(dtype))(weight.to(dtype), bias.to(dtype)), x.to(dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    for layer, rows in layers.values():
        layer(rows)  # the first time oneDNN makes its code
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in layers}
    for _ in range(ROUNDS):
        for dtype, (layer, rows) in layers.items():
            start = time.process_time()
            layer(rows)
            seconds[dtype].append(time.process_time() - start)
    return seconds


def chosen(float32: Sequence[float], bfloat16: Sequence[float]) -> Precision:
    """Choose the precision, given the seconds of each round."""
    return "bfloat16" if median(float32) > MARGIN * median(bfloat16) else "float32"
