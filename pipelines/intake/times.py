"""Read times of any spelling that has one meaning; refuse the rest.

    text         ISO 8601: 2026-11-20, 2026-11-20T08:00, 2026-11-20 08:00:00.5, with Z, UTC or +01:00; none is UTC
    numbers      seconds or milliseconds since 1970, also as text; between the years taken they cannot be confused
    Parquet      times of any unit and zone, dates, and the spellings above

20261101, 2026 and 20180227115530Z could mean something else in each of three programs: they are refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.intake.found import Read, compute

TIME: Final = pa.timestamp("us", "UTC")
FIRST_YEAR: Final = 1990

_DAY = r"\d{4}-\d{2}-\d{2}"
_CLOCK = r"[T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?"
_LONG_CLOCK = r"[T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,9})?)?"
_ZONE = r"(Z|[+-]([01]\d|2[0-3])(:?[0-5]\d)?)"
_PLAIN: Final = f"^{_DAY}({_CLOCK})?$"
_ZONED: Final = f"^{_DAY}{_CLOCK}{_ZONE}$"
_ISO: Final = re.compile(f"{_DAY}({_LONG_CLOCK}( ?(UTC|{_ZONE}))?)?")
_NUMBER: Final = re.compile(r"\d{1,15}(\.\d{1,9})?")
_EPOCH: Final = date(1970, 1, 1).toordinal()
_PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Years:
    """The years a time may be of, both included."""

    first: int = FIRST_YEAR
    last: int = 2100

    @classmethod
    def until(cls, year: int) -> Self:
        """From 1990 to the year after this one."""
        return cls(FIRST_YEAR, year + 1)

    @classmethod
    def any(cls) -> Self:
        """All that a calendar has; whole numbers are seconds then, for milliseconds would be other seconds."""
        return cls(1, 9999)

    @property
    def low(self) -> int:
        """First second, since 1970."""
        return (date(self.first, 1, 1).toordinal() - _EPOCH) * 86_400

    @property
    def high(self) -> int:
        """First second after the last one."""
        return (date(self.last, 12, 31).toordinal() + 1 - _EPOCH) * 86_400

    @property
    def units(self) -> tuple[int, ...]:
        """What a number may count in a second."""
        return (1, 1_000) if self.high < self.low * 1_000 else (1,)


def read_times(found: pa.Array | Sequence[object], years: Years) -> Read:
    """Read a column as times; problems are `wrong_type` and `bad_time`."""
    if not isinstance(found, pa.Array):
        try:
            found = pa.array(found, pa.string())
        except (pa.ArrowException, TypeError, ValueError):
            return _one_by_one(found, years)
    array: Any = found
    kind = array.type
    if pa.types.is_null(kind):
        return Read(pa.nulls(len(array), TIME), {})
    if pa.types.is_dictionary(kind):
        return read_times(array.cast(kind.value_type), years)
    if pa.types.is_timestamp(kind):
        return _in_years(array.cast(pa.int64()), years, _PER_SECOND[kind.unit])
    if pa.types.is_date(kind):
        days = pa.types.is_date32(kind)
        ticks = array.cast(pa.int32() if days else pa.int64()).cast(pa.int64())
        return _in_years(compute("multiply", ticks, 86_400) if days else ticks, years, 1 if days else 1_000)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _of_numbers(array.cast(pa.float64(), safe=False), years)
    if pa.types.is_boolean(kind) or pa.types.is_nested(kind) or pa.types.is_temporal(kind):
        return Read(pa.nulls(len(array), TIME), {"wrong_type": _is_valid(array)})
    return _of_texts(array, years)


def moment(value: object, years: Years) -> datetime | None:
    """The time that one value means; None if it means none.

    Raises:
        TypeError: if it is neither text nor number nor time.
    """
    if isinstance(value, bool):
        raise TypeError("a truth value is no time")
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            return _of_years(_iso(text), years)
        value = float(text)
    if isinstance(value, int | float):
        return _of_number(value, years)
    if isinstance(value, datetime):
        return _of_years(value, years)
    if isinstance(value, date):
        return _of_years(datetime.combine(value, time()), years)
    raise TypeError("not a time")


def _iso(text: str) -> datetime | None:
    if not _ISO.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(
            text.replace(" UTC", "Z").replace("UTC", "Z").replace(" +", "+").replace(" -", "-")
        )
    except ValueError:  # 30 February
        return None


def _of_number(value: float, years: Years) -> datetime | None:
    for unit in years.units:
        if abs(value) < 1e18 and years.low <= value / unit < years.high:
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value / unit)
    return None


def _of_years(value: datetime | None, years: Years) -> datetime | None:
    try:
        found = value and (value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC))
    except OverflowError:  # a zone that leads out of the calendar
        return None
    return found if found and years.first <= found.year <= years.last else None


def _one_by_one(found: Sequence[object], years: Years) -> Read:
    moments: list[datetime | None] = []
    wrong, bad = np.zeros(len(found), bool), np.zeros(len(found), bool)
    for at, value in enumerate(found):
        moments.append(None)
        try:
            moments[-1] = None if value is None else moment(value, years)
        except TypeError:
            wrong[at] = True
        else:
            bad[at] = value is not None and moments[-1] is None
    return Read(pa.array(moments, TIME), {"wrong_type": wrong, "bad_time": bad})


def _of_texts(found: pa.Array, years: Years) -> Read:
    try:
        texts = compute("utf8_trim_whitespace", found.cast(pa.binary()).cast(pa.string()))
        for pattern, kind in ((_PLAIN, pa.timestamp("us")), (_ZONED, TIME)):
            if _all_match(texts, pattern):
                return _in_years(texts.cast(kind).cast(pa.int64()), years, 10**6)
    except pa.ArrowInvalid:  # 30 February somewhere, or no UTF-8
        pass
    if pa.types.is_string(found.type) or pa.types.is_large_string(found.type):
        found = found.cast(pa.large_binary())
    texts = [None if value is None else bytes(value).decode("utf8", "replace") for value in found.to_pylist()]
    return _one_by_one(texts, years)


def _all_match(texts: pa.Array, pattern: str) -> bool:
    options = pc.MatchSubstringOptions(pattern)
    return bool(compute("all", pc.call_function("match_substring_regex", [texts], options)).as_py())


def _of_numbers(found: pa.Array, years: Years) -> Read:
    values: NDArray[Any] = np.asarray(pc.fill_null(found, np.nan), np.float64)
    seconds = np.full(len(values), np.nan)
    for unit in years.units:
        inside = (values / unit >= years.low) & (values / unit < years.high)
        seconds[inside] = values[inside] / unit
    known = ~np.isnan(seconds)
    ticks = np.where(known, np.round(np.nan_to_num(seconds) * 1e6), 0).astype(np.int64)
    return Read(_times(ticks, known), {"bad_time": ~known & ~np.isnan(values)})


def _in_years(ticks: pa.Array, years: Years, per_second: int) -> Read:
    """Times that are ticks since 1970, those outside the years refused."""
    valid = _is_valid(ticks)
    values: NDArray[Any] = np.asarray(pc.fill_null(ticks, 0), np.int64)
    inside = valid & (values // per_second >= years.low) & (values // per_second < years.high)
    kept = np.where(inside, values, 0)
    micros = kept * (10**6 // per_second) if per_second <= 10**6 else kept // 1_000
    return Read(_times(micros, inside), {"bad_time": valid & ~inside})


def _times(micros: NDArray[Any], known: NDArray[Any]) -> pa.Array:
    return pa.array(micros, pa.int64(), mask=~known).cast(TIME)


def _is_valid(found: pa.Array) -> NDArray[Any]:
    return np.asarray(found.is_valid(), bool)
