"""What a check is given, and what it tells."""

from dataclasses import dataclass
from typing import Final

FAILED: Final = "FAILED"
NOT_RUN: Final = "not run"


@dataclass(frozen=True)
class Setting:
    """Where a check runs."""

    device: str
    is_tiny: bool
    """Shapes so small that a CPU runs them in a moment."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    check: str
    found: str
    wanted: str = ""
    result: str = "measured"


def judged(check: str, found: str, wanted: str, *, is_right: bool) -> Row:
    """Make the row of something that can be right or wrong."""
    return Row(check, found, wanted, "ok" if is_right else FAILED)
