"""The benchmark's own files, https://github.com/LaMP-Benchmark/LaMP, as rows of tasks and histories.

    questions.json ─▶ one task per question, whose user it is ─▶ tasks
          │               └▶ the items of its profile ─────────▶ histories
    outputs.json ─▶ references

Each row stands alone: a question that is refused leaves its items in, and the other way round.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import chain, islice
from typing import IO, Any, Final

from embedder.errors import UsageError
from llm_jobs.kinds import Kind
from pipelines.intake import limits
from pipelines.intake.checks import COLUMN_TYPES
from pipelines.intake.chunks import Chunk, Gathered
from pipelines.intake.columns import as_text, is_utf8
from pipelines.intake.lamp_files import Golds, questions_of
from pipelines.intake.rejects import Reject, described

PEEKED: Final = 20  # questions that are looked at to find the kind


@dataclass(frozen=True)
class LampRules:
    """How a questions file is read."""

    ds: date  # the night; tasks are queued at its midnight
    kinds: Mapping[str, Kind]  # the kinds there are
    kind: str | None = None  # name of the questions' kind, found out unless given
    undated: date | None = None
    """Day of profile items without a date (LaMP's user-based files have none); they are refused unless given."""


def lamp_chunks(label: str, file: IO[bytes], golds: Golds, rules: LampRules) -> Iterator[tuple[str, Chunk]]:
    """Read a questions file and its answers: a table, and a chunk of its rows at a time.

    Args:
        label: what the file is called in row ids.
        file: a JSON list of {"id", "input", "profile"}.
        golds: the answers.
        rules: how the file is read.

    Raises:
        UsageError: if the kind cannot be found out, or there is no such kind.
    """
    gathered = {name: Gathered({column: column for column in COLUMN_TYPES[name]}) for name in ("histories", "tasks")}
    for name, row_id, row in _rows(label, file, golds, rules):
        gathered[name].add(row_id, row)
        if gathered[name].is_full:
            yield name, gathered[name].take()
    for name, rows in gathered.items():
        yield name, rows.take()


def _rows(label: str, file: IO[bytes], golds: Golds, rules: LampRules) -> Iterator[tuple[str, str, object]]:
    """Table, row id, and the row or why there is none."""
    questions = questions_of(file)
    first = list(islice(questions, PEEKED))
    kind = _kind_of(label, first, golds.task, rules)
    seen: set[str] = set()
    for number, question in enumerate(chain(first, questions), 1):
        row_id = f"{label}:{number}"
        if not isinstance(question, Mapping) or kind is None:
            yield "tasks", row_id, question
            continue
        given = question.get("id")
        name = as_text(given)
        user = name if name is not None and len(name) <= limits.ID_CHARACTERS and is_utf8(name) else None
        seen.update([name] if name is not None else [])
        yield "tasks", user or row_id, _task(question, given if name is None else name, user, golds, rules.ds, kind)
        profile = question.get("profile")
        if isinstance(profile, list):
            for place, item in enumerate(profile, 1):
                row = _item(item, given if name is None else name, user, kind, rules.undated)
                yield "histories", f"{user or row_id}/{place}", row
        elif profile is not None:
            yield "histories", user or row_id, Reject("wrong_type_profile", described(profile), user)
    for name, output in golds.outputs.items():
        if name not in seen:
            yield "tasks", name, Reject("gold_without_question", described(output), name)
    yield from (("tasks", row_id, reject) for row_id, reject in golds.refused)


def _kind_of(label: str, questions: list[object], task: str | None, rules: LampRules) -> Kind | None:
    """The kind that is named, or that fits the first questions; None if there is no question to fit."""
    if rules.kind is not None and rules.kind not in rules.kinds:
        raise UsageError(f"no kind {rules.kind!r}: there are {', '.join(rules.kinds)}")
    kind = rules.kinds[rules.kind] if rules.kind else lamp_kind(questions, task, rules.kinds)
    if kind is None and (len(questions) == PEEKED or any(isinstance(question, Mapping) for question in questions)):
        raise UsageError(f"{label}: the kind of its questions is not known: name it with --kind")
    return kind


def lamp_kind(questions: Iterable[object], task: str | None, kinds: Mapping[str, Kind]) -> Kind | None:
    """The kind of some questions: by the wording of a prompt, else by the task's name and the profile's fields.

    The name alone does not do: LaMP_2 is the name of the movie tags and of the news categories before them. Nor do
    the fields: questions without a prompt are another benchmark's, like LaMP-QA.
    """
    shaped = [kind for kind in kinds.values() if kind.lamp_prompt]
    objects = [question for question in questions if isinstance(question, Mapping)]
    inputs = [text.lstrip() for question in objects if isinstance(text := question.get("input"), str)]
    worded = [kind for text in inputs for kind in shaped if text.startswith(kind.lamp_prompt)]
    if worded:
        return worded[0]
    if not inputs:
        return kinds.get(task or "")
    named = [kind for kind in shaped if task and kind.name.startswith(task)]
    profiles = [profile for question in objects if isinstance(profile := question.get("profile"), list)]
    items = [item for profile in profiles for item in profile if isinstance(item, Mapping)]
    fitting = [kind for kind in named or shaped if items and _fits(kind, set(items[0]))]
    return fitting[0] if len(fitting) == 1 else kinds.get(task or "")


def _fits(kind: Kind, fields: set[str]) -> bool:
    if kind.lamp_output is None:
        return fields <= {kind.lamp_text, "id", "date"}
    return {kind.lamp_text, kind.lamp_output} <= fields


def _task(question: Mapping[str, Any], name: object, user: str | None, golds: Golds, ds: date, kind: Kind) -> object:
    text = question.get("input")
    choices = kind.choices_in(text) if isinstance(text, str) else None
    if isinstance(text, str) and text.strip() and isinstance(name, str) and kind.query(text) is None:
        return Reject("malformed_input", described(text), user)
    return {
        "task_id": name,
        "user_id": name,
        "kind": kind.name,
        "queued_at": f"{ds}",
        "input": text,
        "choices": None if choices is None else list(choices),
        "reference": golds.outputs.get(name) if isinstance(name, str) else None,
    }


def _item(item: object, name: object, user: str | None, kind: Kind, undated: date | None) -> object:
    if not isinstance(item, Mapping):
        return Reject("not_an_object", described(item), user)
    values = {"id": item.get("id"), "date": lamp_time(item.get("date"), undated), kind.lamp_text: None}
    values |= {field: item.get(field) for field in (kind.lamp_text, kind.lamp_output) if field is not None}
    missing = [field for field, value in values.items() if value is None]
    if missing:
        return Reject(f"missing_{missing[0]}", user_id=user)
    return {
        "user_id": name,
        "item_id": values["id"],
        "kind": kind.name,
        "posted_at": values["date"],
        "text": values[kind.lamp_text],
        "output": values[kind.lamp_output] if kind.lamp_output else None,
    }


def lamp_time(value: object, undated: date | None) -> object:
    """Spell LaMP's dates in ISO 8601: a year, numbers between dashes, or 20160503; another value stays."""
    if value is None:
        return undated and undated.isoformat()
    text = as_text(value)
    if text is None:
        return value
    if re.fullmatch(r"\d{8}", text):
        text = f"{text[:4]}-{text[4:6]}-{text[6:]}"
    if not re.fullmatch(r"\d{4}(-\d{1,2}){0,5}", text):
        return value
    numbers = [int(part) for part in text.split("-")]
    try:
        year, month, day, *clock = [*numbers, *[1, 1][len(numbers) - 1 :]]
        return datetime(year, month, day, *clock, tzinfo=UTC).isoformat()
    except ValueError:
        return text
