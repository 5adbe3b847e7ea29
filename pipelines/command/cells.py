"""One value as a person reads it in a table."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

RECENT: Final = timedelta(days=7)  # times that are nearer than this read as "2 h ago"
SHORT: Final = 8  # characters that are shown of a fingerprint, or of the random end of a run's id

_RUN: Final = re.compile(r"\d{8}T\d{6}-\w+-[0-9a-f]{8}")


def plain(value: object) -> object:
    """The value as JSON can hold it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):  # what DuckDB makes of a sum of integers
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else str(value)


def exact_cell(value: object) -> str:
    """The whole value, as --csv and --wide show it."""
    found = plain(value)
    if isinstance(found, list | dict):
        return json.dumps(found, ensure_ascii=False)
    return "" if found is None else str(found)


def decimals_of(values: Sequence[object]) -> int:
    """Decimals that give the largest of the numbers three digits or more, so that a column has one number of them."""
    largest = max((abs(value) for value in values if isinstance(value, float) and math.isfinite(value)), default=0.0)
    return 3 if largest == 0 else min(6, max(0, 2 - math.floor(math.log10(largest))))


def short_cell(name: str, value: object, decimals: int, now: datetime | None = None) -> str:
    """The value in few characters.

    Args:
        name: of the column; fingerprints and ids of runs are shortened.
        value: what it holds.
        decimals: of a number that is no integer.
        now: show recent times as "2 h ago"; unless given, times are written out.
    """
    if isinstance(value, Decimal):
        value = plain(value)
    if isinstance(value, float):
        return f"{round(value, decimals) + 0.0:,.{decimals}f}" if math.isfinite(value) else ""  # + 0.0: no "-0"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return ago(value, now) if now else f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return ", ".join(value)
    text = exact_cell(_rounded(value))
    if name.endswith("sha256"):
        return text[:SHORT]
    return text[-SHORT:] if name == "run_id" and _RUN.fullmatch(text) else text


def _rounded(value: object) -> object:
    """The numbers within a value with three digits."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def ago(then: datetime, now: datetime) -> str:
    """How long ago that was, or the day where that is long ago or yet to come; a time without a zone is in UTC."""
    at = then if then.tzinfo else then.replace(tzinfo=UTC)
    seconds = (now - at).total_seconds()
    if not -1 <= seconds < RECENT.total_seconds():
        return f"{at:%Y-%m-%d}"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def duration(seconds: float) -> str:
    """Seconds as a clock shows them: 1:20, or 2:05:09."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
