"""Read times of any spelling that has one meaning; refuse the rest.

    text         ISO 8601: 2026-11-20, 2026-11-20T08:00, 2026-11-20 08:00:00.5, with Z, UTC or +01:00; none is UTC
    numbers      seconds or milliseconds since 1970, also as text; between the years taken they cannot be confused
    Parquet      times of any unit and zone, dates, and the spellings above

20261101, 2026 and 20180227115530Z could mean something else in each of three programs: they are refused.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.intake.columns import CheckedColumn, RawColumn, read_texts

TIME: Final = pa.timestamp("us", "UTC")
FIRST_YEAR: Final = 1990

_ZONE = r"UTC|Z|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?"
_CLOCK = r"[T ](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,9})?)?"
_ISO: Final = re.compile(rf"(\d{{4}}-\d\d-\d\d)(?:({_CLOCK})(?: ?({_ZONE}))?)?", re.ASCII)
_NUMBER: Final = re.compile(r"-?\d{1,15}(\.\d{1,9})?", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Years:
    """The years a time may be of, both included; all that a calendar has unless given."""

    first: int = 1
    last: int = 9999

    @classmethod
    def until(cls, year: int) -> Self:
        """From 1990 to the year after this one."""
        return cls(FIRST_YEAR, year + 1)

    @cached_property
    def seconds(self) -> tuple[int, int]:
        """The first second, and the one after the last, since 1970."""
        days = date(self.first, 1, 1).toordinal(), date(self.last, 12, 31).toordinal() + 1
        return (days[0] - _EPOCH.toordinal()) * 86_400, (days[1] - _EPOCH.toordinal()) * 86_400

    @cached_property
    def units(self) -> tuple[int, ...]:
        """What a number may count in a second: milliseconds too, unless they might be seconds of another year."""
        return (1, 1_000) if self.seconds[1] < self.seconds[0] * 1_000 else (1,)


def read_times(raw: RawColumn, years: Years) -> CheckedColumn:
    """Read a column as times, in UTC; reasons are `wrong_type`, `not_utf8` and `bad_time`."""
    if isinstance(raw, pa.Array):
        array: Any = raw
        if pa.types.is_date(array.type):
            array = array.cast(pa.timestamp("s" if pa.types.is_date32(array.type) else "ms"))
        if pa.types.is_timestamp(array.type):
            return _read_ticks(array.cast(pa.int64()), _PER_SECOND[array.type.unit], years)
    texts = read_texts(raw)
    times = [None if text is None else moment(text, years) for text in texts.values.to_pylist()]
    is_bad = np.array([time is None for time in times], bool) & np.asarray(texts.values.is_valid(), bool)
    return CheckedColumn(pa.array(times, TIME), texts.reasons).refused(is_bad, "bad_time")


def moment(text: str, years: Years) -> datetime | None:
    """The time that a text means; None if it means none, or one of another year."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        first, end = years.seconds
        seconds = (float(text) / unit for unit in years.units)
        return next((_EPOCH + timedelta(seconds=found) for found in seconds if first <= found < end), None)
    if (spelled := _ISO.fullmatch(text)) is None:
        return None
    day, clock, zone = spelled.groups()
    try:
        time = datetime.fromisoformat(f"{day}{clock or 'T00:00'}{(zone or 'Z').replace('UTC', 'Z')}").astimezone(UTC)
    except (ValueError, OverflowError):  # 30 February; a zone that leads out of the calendar
        return None
    return time if years.first <= time.year <= years.last else None


def _read_ticks(ticks: pa.Array, per_second: int, years: Years) -> CheckedColumn:
    """Make times of ticks since 1970; numpy, since Arrow refuses a whole column for one tick beyond its calendar."""
    values: NDArray[Any] = np.asarray(pc.fill_null(ticks, 0), np.int64)
    first, end = years.seconds
    is_there = np.asarray(ticks.is_valid(), bool)
    is_inside = is_there & (values // per_second >= first) & (values // per_second < end)
    values = np.where(is_inside, values, 0)
    micros = values * (10**6 // per_second) if per_second <= 10**6 else values // 1_000
    times = pa.array(micros, pa.int64(), mask=~is_inside).cast(TIME)
    return CheckedColumn.of(times).refused(is_there & ~is_inside, "bad_time")
