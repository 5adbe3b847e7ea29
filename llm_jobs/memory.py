"""How much memory keys and values may take, and how much is free."""

import logging
from collections.abc import Iterator
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

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")

HIERARCHIES = {
    "": ("", "unified"),
    "memory": ("memory",),
}
"""Where the groups of a controller lie; version 2 has none by name, and lies beside version 1 on some systems."""

LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Files with limit and use, and what of the use is cached files that go when memory is asked for; versions 2 and 1."""


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


def half_of_free_memory(
    device: str, meminfo: Path = MEMINFO, groups: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS
) -> int:
    """Half of the bytes that are free on the device: what is available, or less if a control group limits it."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0] // 2
    found = [UNKNOWN]
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        found = [int(lines["MemAvailable"].split()[0]) << 10]
    free = (_free_in(folder) for folder in _groups(groups, own))
    return min([*found, *(size for size in free if size is not None)]) // 2


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """The control groups this process is in: each limits it, from its own up to the one that all share.

    Inside a container the names are those of the host and lie nowhere; the root then is the container's own.
    """
    lines = own.read_text().splitlines() if own.is_file() else ["0::/"]
    for _, names, path in (line.split(":", 2) for line in lines):
        for place in (place for name in names.split(",") for place in HIERARCHIES.get(name, ())):
            group = root / place / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root / place))


def _free_in(folder: Path) -> int | None:
    """Bytes that a group may still take; None where it has no limit."""
    for limit, used, cached in LIMITS:
        if (folder / limit).is_file() and (folder / used).is_file():
            most = (folder / limit).read_text().strip()
            facts = (folder / "memory.stat").read_text().splitlines() if (folder / "memory.stat").is_file() else []
            files = dict(line.split(maxsplit=1) for line in facts).get(cached, "0")
            return None if most == "max" else max(0, int(most) - int((folder / used).read_text()) + int(files))
    return None
