"""A column as it was found in a file ─▶ the column as a table wants it, and what is wrong with it, row by row.

What was found is an Arrow array of any type, or a list of any Python values where each row brought its own.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Mask: TypeAlias = NDArray[np.bool_]
Found: TypeAlias = pa.Array | Sequence[object]


class Read(NamedTuple):
    """A column that was read: a value is null where a problem's mask (n,) is true."""

    values: pa.Array
    problems: dict[str, Mask]


def read_texts(found: Found) -> Read:
    """Read a column as texts; numbers become text. Problems are `wrong_type` and `not_utf8`."""
    if not isinstance(found, pa.Array):
        try:
            return Read(pa.array(found, pa.string()), {})
        except (pa.ArrowException, TypeError, ValueError):
            return _one_by_one(found)
    array: Any = found
    kind = array.type
    if pa.types.is_dictionary(kind):
        return read_texts(array.cast(kind.value_type))
    if pa.types.is_floating(kind):
        return _one_by_one([None if value is None or math.isnan(value) else value for value in array.to_pylist()])
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return Read(array.cast(pa.string()), {})
    if pa.types.is_nested(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind):
        return Read(pa.nulls(len(array), pa.string()), {"wrong_type": _is_valid(array)})
    try:
        return Read(array.cast(pa.large_binary()).cast(pa.string()), {})  # Spark writes texts as bytes, too
    except pa.ArrowInvalid:
        return _one_by_one(array.cast(pa.large_binary()).to_pylist())


def read_truths(found: Found) -> Read:
    """Read a column of BOOL; `true` and `false` may be spelled out. The problem is `wrong_type`."""
    if isinstance(found, pa.Array):
        array: Any = found
        if pa.types.is_boolean(array.type) or pa.types.is_null(array.type):
            return Read(array.cast(pa.bool_()), {})
        found = array.to_pylist()
    spelled = {"true": True, "false": False, "": None}
    plain = [spelled.get(value.strip().lower(), value) if isinstance(value, str) else value for value in found]
    wrong = np.array([value is not None and not isinstance(value, bool) for value in plain], bool)
    return Read(
        pa.array([value if isinstance(value, bool) else None for value in plain], pa.bool_()), {"wrong_type": wrong}
    )


def read_choices(found: Found) -> Read:
    """Read a column of lists of different texts; a list may be spelled as JSON."""
    array: Any = found
    values: Sequence[object] = array.to_pylist() if isinstance(found, pa.Array) else found
    lists: list[list[str] | None] = []
    problems = {
        name: np.zeros(len(values), bool) for name in ("wrong_type", "not_utf8", "empty", "empty_choice", "repeated")
    }
    for at, value in enumerate(values):
        texts, problem = _choices(value)
        lists.append(texts if problem is None else None)
        if problem is not None:
            problems[problem][at] = True
    return Read(pa.array(lists, pa.list_(pa.field("element", pa.string(), nullable=False))), problems)


def is_blank(texts: pa.Array) -> Mask:
    """Where a text is nothing but white space; false where there is none."""
    return np.asarray(
        pc.fill_null(compute("equal", byte_lengths(compute("utf8_trim_whitespace", texts)), 0), False), bool
    )


def lengths(texts: pa.Array) -> NDArray[Any]:
    """Bytes of each text, 0 for null."""
    return np.asarray(pc.fill_null(byte_lengths(texts), 0), np.int64)


def byte_lengths(texts: pa.Array) -> pa.Array:
    """Bytes of each text, null for null."""
    return compute("binary_length", texts)


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


def _one_by_one(found: Sequence[object]) -> Read:
    texts: list[str | None] = []
    wrong, broken = np.zeros(len(found), bool), np.zeros(len(found), bool)
    for at, value in enumerate(found):
        try:
            text = value.decode("utf8") if isinstance(value, bytes) else as_text(value)
            texts.append(text if text is None else text.encode("utf8").decode("utf8"))
        except UnicodeError:  # a bad byte, or half of a surrogate pair: JSON can spell it, Parquet cannot hold it
            texts.append(None)
            broken[at] = True
        else:
            wrong[at] = text is None and value is not None
    return Read(pa.array(texts, pa.string()), {"wrong_type": wrong, "not_utf8": broken})


def _choices(value: object) -> tuple[list[str] | None, str | None]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return None, "wrong_type"
    if value is None or value == "":
        return None, None
    if not isinstance(value, list):
        return None, "wrong_type"
    texts = [as_text(choice) for choice in value]
    known = [text for text in texts if text is not None]
    if len(known) < len(texts):
        return None, "wrong_type"
    try:
        "".join(known).encode("utf8")
    except UnicodeError:
        return None, "not_utf8"
    if not known:
        return None, "empty"
    if not all(text.strip() for text in known):
        return None, "empty_choice"
    return known, "repeated" if len(set(known)) < len(known) else None


def _is_valid(found: pa.Array) -> Mask:
    return np.asarray(found.is_valid(), bool)
