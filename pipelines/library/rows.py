"""Histories and tasks of a DataFrame, checked by the rules of `pplug ingest`.

    frame ─▶ columns under our names ─▶ check_chunk ─▶ rows, oldest item of each user first
                                            └────────▶ one error that says how many rows are wrong, and how

Nothing is left out silently: a row that cannot be used is an error.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

import pyarrow as pa

from embedder.errors import UsageError
from llm_jobs.kinds import SPOKEN, Kind
from pipelines.intake.advice import fitting_map, needed_columns, shown
from pipelines.intake.checks import COLUMN_TYPES, DELETED, RowRules, check_chunk
from pipelines.intake.chunks import Chunk
from pipelines.intake.limits import BATCH_ROWS
from pipelines.intake.task_warnings import TaskWarnings
from pipelines.intake.times import Years
from pipelines.library.frames import as_arrow
from pipelines.tables import Row
from pipelines.tables.schema import KEYS

MADE: Final = ("task_id", "queued_at")
"""Columns of tasks that are made where a frame lacks them: the number of the row, and now."""

NIGHT: Final = date(1970, 1, 1)  # tasks of a frame are of no night; the functions of the jobs want one


def kind_named(name: str, known: Mapping[str, Kind]) -> Kind:
    """The kind of either of its names; raises UsageError if there is none."""
    chosen = known.get(name) or known.get(SPOKEN.get(name, ""))
    if chosen is None:
        spoken = {own: other for other, own in SPOKEN.items()}
        there = ", ".join(spoken.get(own, own) for own in known)
        raise UsageError(f"kind {name!r} is not known: use one of {there}, or describe it in kinds=")
    return chosen


def read_histories(frame: Any, kind: Kind, kinds: Mapping[str, Kind], columns: Mapping[str, str]) -> list[Row]:
    """The items of a frame by user, the oldest first; of the rows of one key the last one counts.

    Args:
        frame: user_id, text and posted_at; output, where users produced something; item_id and kind, if it has any.
        kind: of the rows that name none.
        kinds: the kinds there are.
        columns: what the frame calls columns of ours.

    Raises:
        UsageError: if a column is missing, or a row cannot be used.
    """
    rows = _checked("histories", frame, RowRules(kinds, Years(), kind=kind.name), columns).to_pylist()
    key, order = KEYS["histories"], ("user_id", "posted_at", "kind", "item_id")
    newest = {tuple(row[name] for name in key): row for row in rows}
    left = [row for row in newest.values() if not row[DELETED]]
    return sorted(left, key=lambda row: tuple(row[name] for name in order))


def read_tasks(frame: Any, kind: Kind, kinds: Mapping[str, Kind], columns: Mapping[str, str]) -> list[Row]:
    """The tasks of a frame, in its order.

    Args:
        frame: user_id, and text or input; task_id, queued_at, choices and reference, if it has any.
        kind: of the tasks.
        kinds: the kinds there are.
        columns: what the frame calls columns of ours.

    Raises:
        UsageError: if a column is missing, a row cannot be used, or tasks share an id or are of another kind.
    """
    checked = _checked("tasks", frame, RowRules(kinds, Years(), kind=kind.name), columns)
    warnings = TaskWarnings(kinds)
    rows = [row | {"ds": NIGHT} for row in warnings.checked(checked).to_pylist()]
    warnings.log()
    if others := {row["kind"] for row in rows} - {kind.name}:
        raise UsageError(f"some tasks are of kind {min(others)}, not {kind.name}: take one Personalizer for each kind")
    if repeated := len(rows) - len({row["task_id"] for row in rows}):
        raise UsageError(f"{repeated} tasks have the task_id of another: make them different, or leave the column out")
    return rows


def _checked(name: str, frame: Any, rules: RowRules, columns: Mapping[str, str]) -> pa.Table:
    """The rows of a frame as a table wants them, and whether they delete."""
    found = as_arrow(frame, name)
    named = _named(name, found.column_names, columns)
    table = found.select(list(named.values())).rename_columns(list(named)).combine_chunks()
    parts, refused = list[pa.Table](), list[tuple[str, str]]()
    for start in range(0, max(1, table.num_rows), BATCH_ROWS):
        part = _with_made(name, table.slice(start, BATCH_ROWS), start)
        values = {ours: column.combine_chunks() for ours, column in zip(part.column_names, part.columns, strict=True)}
        checked = check_chunk(name, Chunk([f"{start + at}" for at in range(part.num_rows)], values), rules)
        parts.append(checked.rows)
        refused += [(row, refusal.reason) for row, refusal in checked.refused]
    if refused:
        raise UsageError(_told(name, refused, table.num_rows))
    return pa.concat_tables(parts)


def _named(name: str, found: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Our columns that a frame has, and what it calls them.

    A frame that lacks a column of `given` may have it under our name: one mapping serves histories and tasks.
    """
    ours = dict.fromkeys((*COLUMN_TYPES[name], DELETED, "text"))
    if unknown := given.keys() - {"text", DELETED, *COLUMN_TYPES["histories"], *COLUMN_TYPES["tasks"]}:
        raise UsageError(f"columns names {min(unknown)!r}, which pplug does not know: there are {', '.join(ours)}")
    pairs = ((own, theirs) for own in ours for theirs in (own, given.get(own, own)) if theirs in found)
    named = dict(pairs)  # of two columns that could be meant, the one that was given
    wanted = {column.split()[0]: column for column in needed_columns(name, has_kind=True)}
    lacking = [column for own, column in wanted.items() if own not in {*MADE, *named} and not _has_text(own, named)]
    if lacking:
        guess = fitting_map(found, name, {**given, **named}, has_kind=True)
        fitting = {own: theirs for own, theirs in guess.items() if own not in MADE} or {lacking[0].split()[0]: "NAME"}
        told = f"{name} have no column {', '.join(lacking)}; found: {shown(found)}"
        raise UsageError(f"{told}: rename them, or pass columns={fitting}")
    return named


def _has_text(own: str, named: Mapping[str, str]) -> bool:
    """Whether a text stands in for the column: pplug writes the prompt to it."""
    return own == "input" and "text" in named


def _with_made(name: str, part: pa.Table, start: int) -> pa.Table:
    """Rows of a frame, with ids and times where tasks bring none."""
    if name != "tasks":
        return part
    if "task_id" not in part.column_names:
        part = part.append_column("task_id", pa.array([f"{start + at}" for at in range(part.num_rows)], pa.string()))
    if "queued_at" not in part.column_names:
        now = pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC"))
        part = part.append_column("queued_at", pa.repeat(now, part.num_rows))
    return part


def _told(name: str, refused: Sequence[tuple[str, str]], count: int) -> str:
    """How many rows are wrong and how; never what they say."""
    reasons = Counter(reason for _, reason in refused)
    told = ", ".join(f"{reason}: {number}" for reason, number in reasons.most_common())
    first = f"first row {refused[0][0]}, counted from 0"
    return f"{len(refused)} of {count} rows of {name} cannot be used ({told}; {first}): mend them or leave them out"
