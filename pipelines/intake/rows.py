"""One line of a user's file becomes a row, or a refusal with a reason; never an exception.

    bytes ─▶ parse_line ─▶ record ─▶ parse_history, parse_task ─▶ row
                 └───────────────────────────┴────────────────▶ Refusal (reason, detail)

Null and absent mean the same. Fields that no column has are ignored.
"""

import ast
import json
import re
import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Final, NoReturn, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from llm_jobs.labels import label_text, spelled_as

DETAIL_CHARACTERS: Final = 200
_NAMED_USER: Final = re.compile(r"""["']user_id["']\s*:\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|-?\d+)""")
"""In JSON and in Python's own notation, as `detail` cites rows."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """Why a row was refused."""

    reason: str
    """In snake_case, for example empty_text, wrong_type_user_id, broken_json."""
    detail: str = ""
    """The offending value, cut."""
    user_id: str | None = None


def shown(value: object) -> str:
    """A value as it stands in `detail`: cut, and writable as UTF-8."""
    if isinstance(value, bytes):
        text = value[: 4 * DETAIL_CHARACTERS].decode("utf8", "backslashreplace")
    else:
        text = value if isinstance(value, str) else repr(value)
    return text[:DETAIL_CHARACTERS].encode("utf8", "backslashreplace").decode("utf8")[:DETAIL_CHARACTERS]


def named_user(detail: str) -> str | None:
    """The user that a cited row names."""
    found = _NAMED_USER.search(detail)
    if found is None:
        return None
    with warnings.catch_warnings(action="ignore"):  # Python's about escapes that only a broken row has
        try:
            return str(json.loads(found[1]) if found[1][0] == '"' else ast.literal_eval(found[1]))
        except (ValueError, SyntaxError):
            return None


def parse_time(value: object) -> datetime:
    """ISO 8601 with or without a zone (none is UTC), a date alone, or whole seconds since 1970; in UTC.

    Raises:
        PydanticCustomError: `bad_time`, or `wrong_type` for what is neither text nor number nor time.
    """
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError) as error:  # OSError: seconds beyond the C library's years
        raise PydanticCustomError("bad_time", "not a time") from error
    raise PydanticCustomError("wrong_type", "not a time")


def _writable(text: str) -> str:
    try:
        text.encode("utf8")
    except UnicodeEncodeError as error:  # half of a surrogate pair: JSON can spell it, Parquet cannot hold it
        raise PydanticCustomError("not_utf8", "half a character") from error
    return text


def _filled(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("empty", "nothing but space")
    return text


def _or_none(text: str | None) -> str | None:
    return text if text and text.strip() else None


def _different(choices: list[str] | None) -> list[str] | None:
    if choices is not None and not choices:
        raise PydanticCustomError("empty", "no choice")
    if choices is not None and len(set(choices)) < len(choices):
        raise PydanticCustomError("repeated", "the same choice twice")
    return choices


Filled = Annotated[str, AfterValidator(_writable), AfterValidator(_filled)]
"""Text that is more than white space; kept as it is."""
Label = Annotated[Filled, BeforeValidator(label_text)]
"""A text or a number."""
OrNone = Annotated[
    Annotated[str, AfterValidator(_writable)] | None, BeforeValidator(label_text), AfterValidator(_or_none)
]
"""Text, number or null; white space alone says no more than null."""
Time = Annotated[datetime, BeforeValidator(parse_time)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True)


class HistoryKey(_Model):
    """All that the deletion of an item has to name."""

    user_id: Filled
    item_id: Filled
    kind: Filled


class HistoryRow(HistoryKey):
    """One thing a user wrote or did."""

    posted_at: Time
    text: Filled
    output: OrNone = None


class TaskKey(_Model):
    """All that the deletion of a task has to name."""

    task_id: Filled


class TaskRow(TaskKey):
    """One queued generation."""

    user_id: Filled
    kind: Filled
    queued_at: Time
    input: Filled
    choices: Annotated[list[Label] | None, AfterValidator(_different)] = None
    reference: OrNone = None

    @model_validator(mode="after")
    def _spell_reference(self) -> Self:
        """The reference takes the spelling of the choice that it names."""
        self.reference = self.reference and spelled_as(self.reference, self.choices)
        return self


class _Deletion(_Model):
    deleted: bool = False


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class _RepeatedField(Exception):
    """A JSON object names a field twice: which one is meant?"""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedField(next(name for name in names if names.count(name) > 1))
    return fields


def parse_line(line: bytes) -> object | Refusal:
    """The JSON value of a line."""
    try:
        return json.loads(line.decode("utf8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except UnicodeDecodeError:
        return Refusal("not_utf8", shown(line))
    except _RepeatedField as error:
        return Refusal("repeated_field", shown(str(error)))
    except (ValueError, RecursionError):  # RecursionError: thousands of brackets
        return Refusal("broken_json", shown(line))


def parse_history(record: object, kinds: Container[str]) -> Row | Refusal:
    """A row of `histories` with a BOOL `deleted`; of a deleted item only the key counts."""
    return _parse(record, HistoryRow, HistoryKey, kinds)


def parse_task(record: object, kinds: Container[str]) -> Row | Refusal:
    """A row of `tasks` with a BOOL `deleted`; of a deleted task only the key counts."""
    return _parse(record, TaskRow, TaskKey, kinds)


def _parse(record: object, whole: type[_Model], key: type[_Model], kinds: Container[str]) -> Row | Refusal:
    if not isinstance(record, Mapping):
        return Refusal("not_an_object", shown(record))
    given: Row = {str(name): value for name, value in record.items() if value is not None}
    try:
        is_deleted = _Deletion.model_validate(given).deleted
        row = (key if is_deleted else whole).model_validate(given).model_dump()
    except ValidationError as error:
        return _refusal(given, error)
    if not is_deleted and row["kind"] not in kinds:
        return Refusal("unknown_kind", shown(row["kind"]), row["user_id"])
    return dict.fromkeys(whole.model_fields) | row | {"deleted": is_deleted}


def _refusal(given: Row, error: ValidationError) -> Refusal:
    first = error.errors(include_url=False)[0]
    field, inside = str(first["loc"][0]), len(first["loc"]) > 1
    user_id = given.get("user_id")
    user = shown(user_id) if isinstance(user_id, str) and user_id.strip() else None
    match first["type"]:
        case "missing":
            return Refusal(f"missing_{field}", shown(given), user)
        case "not_utf8":
            return Refusal("not_utf8", shown(given[field]), user)
        case "bad_time":
            return Refusal("bad_time", shown(given[field]), user)
        case "empty" if field == "choices" and inside:
            return Refusal("empty_choice", shown(given[field]), user)
        case "empty" | "repeated" as reason:
            return Refusal(f"{reason}_{field}", shown(given[field]), user)
        case _:
            return Refusal(f"wrong_type_{field}", shown(given[field]), user)
