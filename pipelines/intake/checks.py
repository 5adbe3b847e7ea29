"""Check a chunk column by column: rows of a table, and the first thing that is wrong with each of the others.

    raw columns ─▶ read_texts, read_times ... ─▶ values and reasons ─▶ rows
                                                        └────────────▶ Reject (reason, what was found, whose)

Null and absent mean the same. Of a row that deletes, only the key counts.
"""

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from enum import Enum, auto
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedder.errors import UsageError
from llm_jobs.kinds import SPOKEN, Kind
from pipelines.intake import limits
from pipelines.intake.chunks import Chunk
from pipelines.intake.columns import (
    CheckedColumn,
    Mask,
    byte_lengths,
    compute,
    is_blank,
    read_choices,
    read_texts,
    read_truths,
)
from pipelines.intake.rejects import Reject, described, shape
from pipelines.intake.times import Years, read_times
from pipelines.tables.schema import MADE, file_schema


class ColumnType(Enum):
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


COLUMN_TYPES: Final[Mapping[str, Mapping[str, ColumnType]]] = {
    "histories": {
        "user_id": ColumnType.KEY,
        "item_id": ColumnType.KEY,
        "kind": ColumnType.KEY,
        "posted_at": ColumnType.TIME,
        "text": ColumnType.TEXT,
        "output": ColumnType.OPTIONAL,
    },
    "tasks": {
        "task_id": ColumnType.KEY,
        "user_id": ColumnType.ID,
        "kind": ColumnType.ID,
        "queued_at": ColumnType.TIME,
        "input": ColumnType.TEXT,
        "choices": ColumnType.CHOICES,
        "reference": ColumnType.OPTIONAL,
    },
}
"""The columns of the tables that are ingested, in the order in which they are looked at."""

DELETED: Final = "deleted"
_WITHOUT_COLUMN: Final = ("bad_time", "not_utf8", "empty_choice")
"""Reasons that do not name their column."""


@dataclass(frozen=True)
class RowRules:
    """What rows may hold."""

    kinds: Container[str]
    """Names of the kinds there are, or a mapping of them, whose prompts can then be written."""
    years: Years
    forgotten: Container[Any] = ()
    """Ids of users whose rows are refused, and nothing of them kept."""
    kind: str | None = None
    """Kind of the rows that name none."""
    night: date | None = None
    """When tasks that tell no time were queued."""


class Checked(NamedTuple):
    """The rows of a chunk that are taken, and the others."""

    rows: pa.Table
    """The columns of the table and a BOOL `deleted`."""
    refused: Sequence[tuple[str, Reject]]


def staged_schema(name: str) -> pa.Schema:
    """The columns of a table, all of which a deleted row may lack, and `deleted`."""
    columns = [pa.field(field.name, field.type) for field in file_schema(name) if field.name not in MADE]
    return pa.schema([*columns, pa.field(DELETED, pa.bool_())])


def renamed(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """The columns of a table and what a file calls them.

    Raises:
        UsageError: if one is no column of the table.
    """
    own = (*COLUMN_TYPES[name], DELETED, *(["text"] if name == "tasks" else []))
    for ours in given:
        if ours not in own:
            raise UsageError(f"{name} has no column {ours!r} to map: there are {', '.join(own)}")
    return {ours: given.get(ours, ours) for ours in own}


def check_chunk(name: str, chunk: Chunk, rules: RowRules) -> Checked:
    """Check the rows of a chunk of a table."""
    count, types = len(chunk.row_ids), COLUMN_TYPES[name]
    deleted = read_truths(chunk.columns.get(DELETED, [None] * count))
    is_deleted = np.asarray(pc.fill_null(deleted.values, False), bool)
    columns = {column: _read(column, kind, chunk, rules) for column, kind in types.items()}
    if name == "histories":
        columns["item_id"] = _with_made_ids(columns, ~is_deleted)
    elif chunk.columns.get("text") is not None:
        columns |= _with_prompts(columns, read_texts(chunk.columns["text"]).values, rules.kinds)
    row = CheckedColumn.of(pa.nulls(count))
    for column, read in {DELETED: deleted, **columns}.items():
        counts = True if types.get(column, ColumnType.KEY) is ColumnType.KEY else ~is_deleted
        for reason in dict.fromkeys(read.reasons[read.reasons != ""]):
            full = reason if reason in _WITHOUT_COLUMN else f"{reason}_{column}"
            row = row.refused(counts & (read.reasons == reason), full)
    sizes = sum(byte_lengths(read.values) for read in columns.values() if pa.types.is_string(read.values.type))
    row = row.refused(sizes > limits.ROW_BYTES, "row_too_large")
    row = row.refused(~is_deleted & ~_is_one_of(columns["kind"].values, rules.kinds), "unknown_kind")
    users = columns["user_id"].values
    reasons = np.where(_is_one_of(users, rules.forgotten), "forgotten_user", row.reasons)
    values = [*(columns[column].values for column in types), pa.array(is_deleted)]
    rows = pa.table(values, names=[*types, DELETED]).select(staged_schema(name).names)
    bad = np.flatnonzero(reasons != "").tolist()
    refused = [(chunk.row_ids[at], _reject(reasons[at], at, users[at].as_py(), chunk, rules)) for at in bad]
    rows = rows.filter(pa.array(reasons == "")) if bad else rows
    return Checked(_emptied(rows, name).cast(staged_schema(name)), [*chunk.refused, *refused])


def _read(column: str, kind: ColumnType, chunk: Chunk, rules: RowRules) -> CheckedColumn:
    """Read a column, with all that can be wrong with it."""
    raw = chunk.columns.get(column)
    raw = [None] * len(chunk.row_ids) if raw is None else raw
    if kind is ColumnType.CHOICES:
        return read_choices(raw)
    if kind is ColumnType.TIME:
        read = read_times(raw, rules.years)
        if column == "queued_at" and rules.night:
            lacking = pa.array((read.reasons == "") & np.asarray(read.values.is_null(), bool))
            night = pa.scalar(rules.night).cast(read.values.type)
            read = CheckedColumn(compute("if_else", lacking, night, read.values), read.reasons)
        return read.refused(read.values.is_null(), "missing")
    read = read_texts(raw)
    if column == "kind":
        read = CheckedColumn(_kind_names(read, rules), read.reasons)
    blank = is_blank(read.values)
    if kind is ColumnType.OPTIONAL:
        return CheckedColumn(_without(read.values, blank), read.reasons)
    read = read.refused(blank, "empty")
    if kind in (ColumnType.KEY, ColumnType.ID):
        read = read.refused(byte_lengths(read.values) > limits.ID_CHARACTERS, "too_long")
    return read.refused(read.values.is_null(), "missing")


def _kind_names(read: CheckedColumn, rules: RowRules) -> pa.Array:
    """The kinds under the names that tables know them by; those that are not named are the one that was given."""
    values = read.values
    if rules.kind is not None:
        is_lacking = pa.array((read.reasons == "") & np.asarray(values.is_null(), bool))
        values = compute("if_else", is_lacking, pa.scalar(rules.kind, pa.string()), values)
    packed = values.dictionary_encode()
    names = packed.dictionary.to_pylist()
    known = [name if name in rules.kinds else SPOKEN.get(name, name) for name in names]
    return values if known == names else pa.array(known, pa.string()).take(packed.indices)


def _without(values: pa.Array, mask: Mask) -> pa.Array:
    return compute("if_else", pa.array(mask), pa.scalar(None, values.type), values) if mask.any() else values


def _with_made_ids(columns: Mapping[str, CheckedColumn], is_kept: Mask) -> CheckedColumn:
    """Give items without an id the hash of what they are: the same user, time and text is the same item."""
    ids, parts = columns["item_id"], [columns[name].values for name in ("user_id", "posted_at", "text")]
    lacking = is_kept & (ids.reasons == "missing")
    reasons = np.where(lacking, "", ids.reasons)  # of one that cannot be made, what it lacks is the reason
    lacking = np.logical_and.reduce([lacking, *(np.asarray(part.is_valid(), bool) for part in parts)])
    if not lacking.any():
        return CheckedColumn(ids.values, reasons)
    at = pa.array(lacking)
    user_ids, times, texts = (part.filter(at) for part in parts)
    rows = zip(user_ids.to_pylist(), times.cast(pa.int64()).to_pylist(), texts.to_pylist(), strict=True)
    made = pa.array([made_id(*row) for row in rows], pa.string())
    return CheckedColumn(compute("replace_with_mask", ids.values, at, made), reasons)


def made_id(user_id: str, microseconds: int, text: str) -> str:
    """The id of an item that brings none, 32 hexadecimal digits."""
    return hashlib.sha256(f"{user_id}\0{microseconds}\0{text}".encode()).hexdigest()[:32]


def _with_prompts(
    columns: Mapping[str, CheckedColumn], texts: pa.Array, kinds: Container[str]
) -> dict[str, CheckedColumn]:
    """Give tasks without `input` the prompt that their kind makes of `text`, and its choices if they bring none."""
    inputs, choices = columns["input"], columns["choices"]
    lacking = (inputs.reasons == "missing") & ~is_blank(texts) & np.asarray(texts.is_valid(), bool)
    if not lacking.any() or not isinstance(kinds, Mapping):
        return {}
    reasons, names = inputs.reasons.copy(), columns["kind"].values
    prompts, own_choices = inputs.values.to_pylist(), choices.values.to_pylist()
    for at in np.flatnonzero(lacking).tolist():
        kind: Any = kinds.get(names[at].as_py())
        if isinstance(kind, Kind) and kind.prompt is not None:
            own_choices[at] = own_choices[at] or (list(kind.choices) if kind.choices else None)
            prompts[at], reasons[at] = kind.training_prompt(texts[at].as_py(), own_choices[at]), ""
    return {
        "input": CheckedColumn(pa.array(prompts, pa.string()), reasons),
        "choices": CheckedColumn(pa.array(own_choices, choices.values.type), choices.reasons),
    }


def _is_one_of(values: pa.Array, group: Container[Any]) -> Mask:
    """Where a value is in a group; each different value is looked up once."""
    if not group:
        return np.zeros(len(values), bool)
    packed = values.dictionary_encode()
    is_one = pa.array([value in group for value in packed.dictionary.to_pylist()], pa.bool_())
    return np.asarray(pc.fill_null(is_one.take(packed.indices), False), bool)


def _emptied(rows: pa.Table, name: str) -> pa.Table:
    """Of a deletion only the key stays."""
    gone = rows[DELETED].combine_chunks()
    if not compute("any", gone).as_py():
        return rows
    kept = compute("if_else", gone, pa.scalar(None, pa.int64()), pa.array(range(len(rows)), pa.int64()))
    for at, column in enumerate(rows.column_names):
        if COLUMN_TYPES[name].get(column, ColumnType.KEY) is not ColumnType.KEY:
            rows = rows.set_column(at, column, rows[column].combine_chunks().take(kept))
    return rows


def _reject(reason: str, at: int, user: str | None, chunk: Chunk, rules: RowRules) -> Reject:
    if reason == "forgotten_user":
        return Reject(reason)
    user = user if user is not None and user.strip() and len(user.encode()) <= limits.ID_CHARACTERS else None
    column = next((name for name in chunk.columns if reason.endswith(f"_{name}")), "")
    if reason == "bad_time":
        return Reject(
            reason, shape(_value(chunk, "posted_at" if "posted_at" in chunk.columns else "queued_at", at)), user
        )
    if reason == "unknown_kind":
        kind = _value(chunk, "kind", at)
        near = (
            get_close_matches(kind, rules.kinds, n=1)
            if isinstance(kind, str) and isinstance(rules.kinds, Mapping)
            else []
        )
        return Reject(reason, f"{described(kind)}; near {near[0]}" if near else described(kind), user)
    return Reject(reason, described(_value(chunk, column, at)) if column else "", user)


def _value(chunk: Chunk, column: str, at: int) -> object:
    raw: Any = chunk.columns.get(column)
    if raw is None:
        return None
    try:
        return raw[at].as_py() if isinstance(raw, pa.Array) else raw[at]
    except (ValueError, OverflowError):  # a time beyond the calendar, a text that is none
        return None
