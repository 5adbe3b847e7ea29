"""How much memory keys and values may take, and how much is free."""

import logging
from pathlib import Path

import torch

from embedder.errors import UsageError

logger = logging.getLogger(__name__)

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
KV_BYTES = 2 << 30
"""What keys and values may take unless told otherwise: a fixed amount, as in bfloat16 an answer depends on how many
others are computed with it."""

UNKNOWN = 2 << 30
"""What counts as free where the system does not say: 2 GiB."""

CONTROL_GROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def parse_bytes(size: str) -> int:
    """A size like "800M" or "4G", in powers of 1,024.

    Raises:
        UsageError: if it is none.
    """
    number, unit = size[:-1], size[-1:].upper()
    if unit not in UNITS or not number.isascii() or not number.isdigit() or not int(number):
        raise UsageError(f"{size!r} is no size: write for example --memory 800M or --memory 4G")
    return int(number) * UNITS[unit]


def kv_bytes(asked: int | None, device: str) -> int:
    """The bytes that keys and values may take: those asked for, or `KV_BYTES`, with a warning where fewer are free."""
    if asked is not None:
        return asked
    free = 2 * half_of_free_memory(device)
    if free < KV_BYTES:
        told = (
            "%d MB of memory are free, and keys and values may take %d MB: give less with --memory, like --memory %dM"
        )
        logger.warning(told, free >> 20, KV_BYTES >> 20, max(1, free >> 21))
    return KV_BYTES


def half_of_free_memory(device: str, meminfo: Path = MEMINFO, group: Path = CONTROL_GROUP) -> int:
    """Half of the bytes that are free on the device: what is available, or less if a control group limits it."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0] // 2
    found = [UNKNOWN]
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        found = [int(lines["MemAvailable"].split()[0]) << 10]
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()) != "max":
        found.append(max(0, int(most) - int(used.read_text())))
    return min(found) // 2
