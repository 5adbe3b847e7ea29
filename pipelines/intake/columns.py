"""Read a column of a file as the table wants it, and say what is wrong with it, row by row.

A raw column is an Arrow array of any type, or a list of any Python values where each row brought its own.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Mask: TypeAlias = NDArray[np.bool_]
RawColumn: TypeAlias = pa.Array | Sequence[object]


class CheckedColumn(NamedTuple):
    """A column that was read."""

    values: pa.Array  # null where there is nothing, or nothing that could be read
    reasons: NDArray[Any]  # (n,) of str: why a value is refused, or ""

    @classmethod
    def of(cls, values: pa.Array) -> Self:
        """A column of good values."""
        return cls(values, np.full(len(values), "", object))

    def refused(self, where: Any, reason: str) -> "CheckedColumn":
        """Refuse the values that a mask (n,) is true for, unless they are refused already."""
        mask = np.asarray(where, bool) & (self.reasons == "")
        return CheckedColumn(self.values, np.where(mask, reason, self.reasons)) if mask.any() else self


def read_texts(raw: RawColumn) -> CheckedColumn:
    """Read a column as texts; numbers become text. Reasons are `wrong_type` and `not_utf8`."""
    if not isinstance(raw, pa.Array):
        try:
            return CheckedColumn.of(pa.array(raw, pa.string()))
        except (pa.ArrowException, TypeError, ValueError):
            return _one_by_one(raw)
    array: Any = raw
    kind = array.type
    if pa.types.is_dictionary(kind):
        return read_texts(array.cast(kind.value_type))
    if pa.types.is_floating(kind):
        return _one_by_one([None if value is None or math.isnan(value) else value for value in array.to_pylist()])
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return CheckedColumn.of(array.cast(pa.string()))
    if pa.types.is_nested(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind):
        return CheckedColumn.of(pa.nulls(len(array), pa.string())).refused(array.is_valid(), "wrong_type")
    try:
        return CheckedColumn.of(array.cast(pa.large_binary()).cast(pa.string()))  # Spark writes texts as bytes, too
    except pa.ArrowInvalid:
        return _one_by_one(array.cast(pa.large_binary()).to_pylist())


def read_truths(raw: RawColumn) -> CheckedColumn:
    """Read a column of BOOL; `true` and `false` may be spelled out. The reason is `wrong_type`."""
    spelled: dict[object, object] = {"true": True, "false": False, "": None}
    truths = [spelled.get(value.strip().lower(), value) if isinstance(value, str) else value for value in _as_list(raw)]
    is_wrong = [not isinstance(value, bool | None) for value in truths]
    return CheckedColumn.of(
        pa.array([value if isinstance(value, bool) else None for value in truths], pa.bool_())
    ).refused(is_wrong, "wrong_type")


def read_choices(raw: RawColumn) -> CheckedColumn:
    """Read a column of lists of different texts; a list may be spelled as JSON.

    Reasons are `wrong_type`, `not_utf8`, `empty`, `empty_choice` and `repeated`.
    """
    read = [_choices(value) for value in _as_list(raw)]
    lists = [value if isinstance(value, list) else None for value in read]
    reasons = [value if isinstance(value, str) else "" for value in read]
    values = pa.array(lists, pa.list_(pa.field("element", pa.string(), nullable=False)))
    return CheckedColumn(values, np.array(reasons, object))


def is_blank(texts: pa.Array) -> Mask:
    """Where a text is nothing but white space; false where there is none."""
    return (byte_lengths(compute("utf8_trim_whitespace", texts)) == 0) & np.asarray(texts.is_valid(), bool)


def byte_lengths(texts: pa.Array) -> NDArray[Any]:
    """Bytes of each text, 0 for null."""
    return np.asarray(pc.fill_null(compute("binary_length", texts), 0), np.int64)


def compute(name: str, *args: Any) -> Any:
    """Call a function of Arrow by its name: most are made on import, so that no type checker knows them."""
    return pc.call_function(name, list(args))


def as_text(value: object) -> str | None:
    """A text, or a number as text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return (str(int(value)) if value.is_integer() else repr(value)) if math.isfinite(value) else None
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else None


def is_utf8(text: str) -> bool:
    """Whether a text can be written: JSON can spell half of a surrogate pair, Parquet cannot hold it."""
    try:
        text.encode("utf8")
    except UnicodeError:
        return False
    return True


def _as_list(raw: Any) -> list[object]:
    return raw.to_pylist() if isinstance(raw, pa.Array) else raw


def _one_by_one(raw: Sequence[object]) -> CheckedColumn:
    texts: list[str | None] = []
    reasons = np.full(len(raw), "", object)
    for number, value in enumerate(raw):
        text = value.decode("utf8", "surrogateescape") if isinstance(value, bytes) else as_text(value)
        if text is None and value is not None:
            reasons[number] = "wrong_type"
        elif text is not None and not is_utf8(text):
            reasons[number], text = "not_utf8", None
        texts.append(text)
    return CheckedColumn(pa.array(texts, pa.string()), reasons)


def _choices(value: object) -> list[str] | str | None:
    """The choices of a task, or what is wrong with them."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return "wrong_type"
    if value is None or value == "":
        return None
    texts = [as_text(choice) for choice in value] if isinstance(value, list) else [None]
    known = [text for text in texts if text is not None]
    if len(known) < len(texts):
        return "wrong_type"
    if not all(map(is_utf8, known)):
        return "not_utf8"
    if not known:
        return "empty"
    if not all(text.strip() for text in known):
        return "empty_choice"
    return "repeated" if len(set(known)) < len(known) else known
