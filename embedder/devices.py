"""Where models compute and in which numbers: what was asked for, or what is there.

    auto ─▶ cuda ─▶ mps ─▶ cpu, the first one that is there

torch is imported when a device is first looked for, so that the command line can name devices without it.
"""

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from embedder.errors import UsageError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16", "float16"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LLMDtype = Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"]
"""int8 and int4 are those of the weights; everything else is bfloat16 then."""

T = TypeVar("T")
Result = TypeVar("Result")


def chosen_device(name: str) -> "torch.device":
    """Find the device of that name, behind a colon which GPU; raises UsageError for one that is unknown or missing."""
    import torch

    kind, _, number = name.partition(":")
    if kind not in get_args(Device) or (number and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"device {name!r} is not known: use one of {', '.join(get_args(Device))}")
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if kind == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there()))
    if not there[kind]() or (number and int(number) >= torch.cuda.device_count()):
        raise UsageError(f"device {name}: torch {torch.__version__} sees none: use --device cpu")
    return torch.device(name)


def device_facts(name: str) -> dict[str, str]:
    """Name the device and, of a GPU, the card, for a run record."""
    import torch

    device = chosen_device(name)
    card = {"card": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {"device": str(device), **card}


def has_bfloat16(device: str = "cpu") -> bool:
    """Tell whether the device multiplies bfloat16 itself; emulation would be slower than float32."""
    import torch

    kind = chosen_device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return kind == "mps" or bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def core_count() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_of_worker(number: int, gpu_count: int) -> dict[str, str]:
    """Give the process of this number, from 0, one of so many GPUs for itself, in turn: the variables it needs."""
    if gpu_count < 2:
        return {}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else [str(gpu) for gpu in range(gpu_count)]
    return {"CUDA_VISIBLE_DEVICES": names[number % gpu_count]}


def in_halves(work: Callable[[Sequence[T]], Result], items: Sequence[T]) -> list[Result]:
    """Do some work on all items together, or, where memory does not suffice, on halves of them one after the other.

    Returns:
        What the work returned, of each part in the order of the items.

    Raises:
        torch.OutOfMemoryError: if it does not suffice for one of them alone.
    """
    import torch

    try:
        return [work(items)]
    except torch.OutOfMemoryError:
        if len(items) < 2:
            raise
    # Only here, where the error and all that its frames hold is gone, can memory be given back.
    free_memory()
    half = len(items) // 2
    logger.warning("no memory for %d at once: going on with %d", len(items), half)
    return [*in_halves(work, items[:half]), *in_halves(work, items[half:])]


def free_memory() -> None:
    """Give back the memory of a GPU that nothing uses."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
