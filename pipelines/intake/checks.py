"""Check a chunk column by column: rows of a table, and the first thing that is wrong with each of the others.

    columns as found ─▶ read_texts, read_times ... ─▶ values and problems ─▶ rows
                                                            └──────────────▶ Refusal (reason, what was found, whose)

Null and absent mean the same. Of a row that deletes, only the key counts.
"""

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum, auto
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedder.errors import UsageError
from llm_jobs.kinds import SPOKEN
from pipelines.intake import limits
from pipelines.intake.chunks import Chunk
from pipelines.intake.found import Found, Mask, Read, compute, is_blank, lengths, read_choices, read_texts, read_truths
from pipelines.intake.prompts import with_prompts
from pipelines.intake.rows import Refusal, described, shape
from pipelines.intake.times import Years, read_times
from pipelines.tables.schema import MADE, file_schema


class Form(Enum):
    """How a column is read."""

    KEY = auto()
    """A text that even a deletion must have, short and not blank."""
    ID = auto()
    """A short text that is not blank."""
    TEXT = auto()
    """A text that is not blank."""
    OPTIONAL = auto()
    """Text or null; white space alone says no more than null."""
    TIME = auto()
    CHOICES = auto()


FORMS: Final[Mapping[str, Mapping[str, Form]]] = {
    "histories": {
        "user_id": Form.KEY,
        "item_id": Form.KEY,
        "kind": Form.KEY,
        "posted_at": Form.TIME,
        "text": Form.TEXT,
        "output": Form.OPTIONAL,
    },
    "tasks": {
        "task_id": Form.KEY,
        "user_id": Form.ID,
        "kind": Form.ID,
        "queued_at": Form.TIME,
        "input": Form.TEXT,
        "choices": Form.CHOICES,
        "reference": Form.OPTIONAL,
    },
}
"""The columns of the tables that are ingested, in the order in which they are looked at."""

DELETED: Final = "deleted"
_IDS: Final = (Form.KEY, Form.ID)


@dataclass(frozen=True)
class Rules:
    """What rows may hold."""

    kinds: Container[str]
    """Names of the kinds there are."""
    years: Years
    forgotten: Container[Any] = ()
    """Ids of users whose rows are refused, and nothing of them kept."""
    kind: str | None = None
    """Kind of the rows that name none."""


@dataclass(frozen=True)
class Checked:
    """The rows of a chunk that are taken, and the others."""

    rows: pa.Table
    """The columns of the table and a BOOL `deleted`."""
    refused: Sequence[tuple[str, Refusal]]


def staged_schema(name: str) -> pa.Schema:
    """The columns of a table, all of which a deleted row may lack, and `deleted`."""
    columns = [pa.field(field.name, field.type) for field in file_schema(name) if field.name not in MADE]
    return pa.schema([*columns, pa.field(DELETED, pa.bool_())])


def renamed(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """The columns of a table and what a file calls them.

    Raises:
        UsageError: if one is no column of the table.
    """
    own = (*FORMS[name], DELETED, *(["text"] if name == "tasks" else []))
    for ours in given:
        if ours not in own:
            raise UsageError(f"{name} has no column {ours!r} to map: there are {', '.join(own)}")
    return {ours: given.get(ours, ours) for ours in own}


def check_chunk(name: str, chunk: Chunk, rules: Rules) -> Checked:
    """Check the rows of a chunk of a table."""
    deleted = read_truths(chunk.columns.get(DELETED, [None] * chunk.count))
    is_deleted = np.asarray(pc.fill_null(deleted.values, False), bool)
    reads = {column: _read(column, form, chunk, rules) for column, form in FORMS[name].items()}
    if name == "histories":
        reads["item_id"] = _with_made_ids(reads, is_deleted)
    elif chunk.columns.get("text") is not None:
        reads |= with_prompts(reads, read_texts(chunk.columns["text"]).values, rules.kinds)
    reasons = np.full(chunk.count, "", object)
    _note(reasons, deleted.problems, DELETED, np.ones(chunk.count, bool))
    for column, form in FORMS[name].items():
        _note(reasons, reads[column].problems, column, np.ones(chunk.count, bool) if form is Form.KEY else ~is_deleted)
    sizes = sum(lengths(read.values) for read in reads.values() if pa.types.is_string(read.values.type))
    reasons[(reasons == "") & (sizes > limits.ROW_BYTES)] = "row_too_large"
    known = _is_one_of(reads["kind"].values, rules.kinds)
    reasons[(reasons == "") & ~is_deleted & ~known] = "unknown_kind"
    users = reads["user_id"].values
    reasons[_is_one_of(users, rules.forgotten)] = "forgotten_user"
    columns = [reads[column].values for column in FORMS[name]]
    whole = pa.table([*columns, pa.array(is_deleted)], names=[*FORMS[name], DELETED]).select(staged_schema(name).names)
    bad = np.flatnonzero(reasons != "")
    refused = [(chunk.row_id(int(at)), _refusal(str(reasons[at]), int(at), users, chunk, rules)) for at in bad]
    rows = whole.filter(pa.array(reasons == "")) if len(bad) else whole
    return Checked(_emptied(rows, name).cast(staged_schema(name)), [*chunk.refused, *refused])


def _read(column: str, form: Form, chunk: Chunk, rules: Rules) -> Read:
    """Read a column, with all that can be wrong with it."""
    found = chunk.columns.get(column)
    if found is None:
        found = [None] * chunk.count
    if form is Form.TIME:
        read = read_times(found, rules.years)
        return _required(read)
    if form is Form.CHOICES:
        return read_choices(found)
    read = read_texts(found)
    if column == "kind":
        read = Read(_kind_names(read, rules), read.problems)
    blank = is_blank(read.values)
    if form is Form.OPTIONAL:
        return Read(_without(read.values, blank), read.problems) if blank.any() else read
    problems = dict(read.problems) | {"empty": blank}
    if form in _IDS:
        problems["too_long"] = lengths(read.values) > limits.ID_CHARACTERS
    return _required(Read(read.values, problems))


def _kind_names(read: Read, rules: Rules) -> pa.Array:
    """The kinds under the names that tables know them by; those that are not named are the one that was given."""
    broken = np.any([*read.problems.values(), np.zeros(len(read.values), bool)], axis=0)
    values = read.values
    if rules.kind is not None:
        is_lacking = pa.array(~broken & np.asarray(values.is_null(), bool))
        values = compute("if_else", is_lacking, pa.scalar(rules.kind, pa.string()), values)
    packed = values.dictionary_encode()
    names = packed.dictionary.to_pylist()
    known = [name if name in rules.kinds else SPOKEN.get(name, name) for name in names]
    return values if known == names else pa.array(known, pa.string()).take(packed.indices)


def _required(read: Read) -> Read:
    there = np.asarray(read.values.is_valid(), bool)
    for mask in read.problems.values():
        there = there | mask
    return Read(read.values, read.problems | {"missing": ~there})


def _without(values: pa.Array, mask: Mask) -> pa.Array:
    return compute("if_else", pa.array(mask), pa.scalar(None, values.type), values)


def _note(reasons: NDArray[Any], problems: Mapping[str, Mask], column: str, where: Mask) -> None:
    """Note what is wrong with the rows with which nothing is yet."""
    for problem, mask in problems.items():
        reasons[(reasons == "") & where & mask] = _reason(problem, column)


def _reason(problem: str, column: str) -> str:
    match problem:
        case "bad_time" | "not_utf8" | "empty_choice":
            return problem
        case _:
            return f"{problem}_{column}"


def _with_made_ids(reads: Mapping[str, Read], is_deleted: Mask) -> Read:
    """Give items without an id the hash of what they are: the same user, time and text is the same item."""
    read = reads["item_id"]
    lacking = read.problems["missing"] & ~is_deleted
    problems = read.problems | {"missing": read.problems["missing"] & is_deleted}
    for column in ("user_id", "posted_at", "text"):
        lacking = lacking & np.asarray(reads[column].values.is_valid(), bool)
    if not lacking.any():
        return Read(read.values, problems)
    at = pa.array(lacking)
    parts = (
        reads["user_id"].values.filter(at).to_pylist(),
        reads["posted_at"].values.filter(at).cast(pa.int64()).to_pylist(),
        reads["text"].values.filter(at).to_pylist(),
    )
    made = [made_id(*values) for values in zip(*parts, strict=True)]
    values = compute("replace_with_mask", read.values, at, pa.array(made, pa.string()))
    return Read(values, problems)


def made_id(user_id: str, microseconds: int, text: str) -> str:
    """The id of an item that brings none, 32 hexadecimal digits."""
    return hashlib.sha256(f"{user_id}\0{microseconds}\0{text}".encode()).hexdigest()[:32]


def _is_one_of(values: pa.Array, group: Container[Any]) -> Mask:
    """Where a value is in a group; each different value is looked up once."""
    if not group:
        return np.zeros(len(values), bool)
    packed = values.dictionary_encode()
    found = pa.array([value in group for value in packed.dictionary.to_pylist()], pa.bool_())
    return np.asarray(pc.fill_null(found.take(packed.indices), False), bool)


def _emptied(rows: pa.Table, name: str) -> pa.Table:
    """Of a deletion only the key stays."""
    gone = rows[DELETED]
    if not compute("any", gone).as_py():
        return rows
    for at, column in enumerate(rows.column_names):
        if column != DELETED and FORMS[name][column] is not Form.KEY:
            values = rows[column].combine_chunks()
            kept = compute(
                "if_else", compute("invert", gone), pa.array(range(len(rows)), pa.int64()), pa.scalar(None, pa.int64())
            )
            rows = rows.set_column(at, column, values.take(kept.combine_chunks()))
    return rows


def _refusal(reason: str, at: int, users: pa.Array, chunk: Chunk, rules: Rules) -> Refusal:
    user = users[at].as_py()
    if reason == "forgotten_user":
        return Refusal(reason)
    user = user if user is not None and user.strip() and len(user.encode()) <= limits.ID_CHARACTERS else None
    if reason == "unknown_kind":
        return Refusal(reason, _nearest(chunk, at, rules.kinds), user)
    return Refusal(reason, _detail(reason, chunk.columns, at), user)


def _detail(reason: str, columns: Mapping[str, Found], at: int) -> str:
    named = [column for column in columns if reason.endswith(f"_{column}")]
    if reason == "bad_time":
        return shape(_value(columns, "posted_at" if "posted_at" in columns else "queued_at", at))
    return described(_value(columns, named[0], at)) if named else ""


def _nearest(chunk: Chunk, at: int, kinds: Container[str]) -> str:
    value = _value(chunk.columns, "kind", at)
    near = get_close_matches(value, kinds, n=1) if isinstance(value, str) and isinstance(kinds, Mapping) else []
    return f"{described(value)}; near {near[0]}" if near else described(value)


def _value(columns: Mapping[str, Found], column: str, at: int) -> object:
    found: Any = columns.get(column)
    if found is None:
        return None
    try:
        return found[at].as_py() if isinstance(found, pa.Array) else found[at]
    except (ValueError, OverflowError):  # a time beyond the calendar, a text that is none
        return None
