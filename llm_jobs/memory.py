"""How much memory keys and values may take."""

from typing import Final

from embedder.errors import UsageError

UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

KV_BYTES: Final = 2 << 30
"""What keys and values may take unless told otherwise: a fixed amount, as in bfloat16 an answer depends on how many
others are computed with it."""

GPU_KV_BYTES: Final = 8 << 30  # the same on a GPU


def parse_bytes(size: str) -> int:
    """Read a size like "800M" or "4G", in powers of 1,024.

    Raises:
        UsageError: if it is none.
    """
    number, unit = size[:-1], size[-1:].upper()
    if unit not in UNITS or not number.isascii() or not number.isdigit() or not int(number):
        raise UsageError(f"{size!r} is no size: write for example --memory 800M or --memory 4G")
    return int(number) * UNITS[unit]
