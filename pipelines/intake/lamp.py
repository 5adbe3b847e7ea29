"""The benchmark's own files, https://github.com/LaMP-Benchmark/LaMP, as rows of tasks and histories.

    questions.json ─▶ one task per question, whose user it is ─▶ tasks
          │               └▶ the items of its profile ─────────▶ histories
    outputs.json ─▶ references

Each row stands alone: a question that is refused leaves its items in, and the other way round.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from embedder.errors import UsageError
from llm_jobs.kinds import Kind
from pipelines.intake.lamp_files import Golds, elements, text_of
from pipelines.intake.references import ReferenceCounts
from pipelines.intake.rows import Refusal, Row, parse_history, parse_task, shown

PEEKED: Final = 20
"""Questions that are looked at to find the kind."""

Taken = tuple[str, str, Row | Refusal]
"""Table, row id, row."""


def lamp_kind(questions: Iterable[object], task: str | None, kinds: Mapping[str, Kind]) -> Kind | None:
    """The kind of some questions: by the wording of a prompt, else by the task's name and the profile's fields.

    The name alone does not do: LaMP_2 is the name of the movie tags and of the news categories before them.
    """
    shaped = [kind for kind in kinds.values() if kind.lamp_prompt]
    objects = [question for question in questions if isinstance(question, Mapping)]
    inputs = [text.lstrip() for question in objects if isinstance(text := question.get("input"), str)]
    worded = [kind for text in inputs for kind in shaped if text.startswith(kind.lamp_prompt)]
    if worded:
        return worded[0]
    named = [kind for kind in shaped if task and kind.name.startswith(task)]
    profiles = [profile for question in objects if isinstance(profile := question.get("profile"), list)]
    items = [item for profile in profiles for item in profile if isinstance(item, Mapping)]
    fitting = [kind for kind in named or shaped if items and _fits(kind, set(items[0]))]
    return fitting[0] if len(fitting) == 1 else kinds.get(task or "")


def _fits(kind: Kind, fields: set[str]) -> bool:
    if kind.lamp_output is None:
        return fields <= {kind.lamp_text, "id", "date"}
    return {kind.lamp_text, kind.lamp_output} <= fields


def read_lamp(
    questions: Path,
    golds: Golds,
    ds: date,
    kinds: Mapping[str, Kind],
    kind: str | None,
    undated: date | None,
    counts: ReferenceCounts,
) -> Iterator[Taken]:
    """The rows of a questions file and its answers.

    Args:
        questions: a JSON list of {"id", "input", "profile"}.
        golds: the answers.
        ds: the night; tasks are queued at its midnight.
        kinds: the kinds there are.
        kind: name of the questions' kind, found out unless given.
        undated: day of profile items without a date (LaMP's user-based files have none); they are refused unless given.
        counts: told of the references.

    Raises:
        UsageError: if the kind cannot be found out, or there is no such kind.
    """
    if kind is not None and kind not in kinds:
        raise UsageError(f"no kind {kind!r}: there are {', '.join(kinds)}")
    stream = elements(questions)
    first = list(islice(stream, PEEKED))
    found = kinds[kind] if kind is not None else lamp_kind(first, golds.task, kinds)
    if found is None and (len(first) == PEEKED or any(isinstance(question, Mapping) for question in first)):
        raise UsageError(f"{questions}: the kind of its questions is not known: name it with --kind")
    seen: set[str] = set()
    for number, question in enumerate(chain(first, stream), 1):
        row_id = f"{questions.name}:{number}"
        if isinstance(question, Refusal) or not isinstance(question, Mapping) or found is None:
            refusal = question if isinstance(question, Refusal) else Refusal("not_an_object", shown(question))
            yield "tasks", row_id, refusal
            continue
        name = text_of(question.get("id"))
        if isinstance(name, str):
            seen.add(name)
            row_id = shown(name)
        yield "tasks", row_id, _task(question, name, golds, ds, found, counts)
        yield from _items(question, name, row_id, found, undated)
    yield from _golds_without_question(golds, seen)


def _golds_without_question(golds: Golds, seen: Container[str]) -> Iterator[Taken]:
    for name, output in golds.outputs.items():
        if name not in seen:
            yield "tasks", shown(name), Refusal("gold_without_question", shown(output), shown(name))
    for row_id, refusal in golds.refused:
        yield "tasks", row_id, refusal


def _task(
    question: Mapping[str, Any], name: object, golds: Golds, ds: date, kind: Kind, counts: ReferenceCounts
) -> Row | Refusal:
    text = question.get("input")
    choices = kind.choices_in(text) if isinstance(text, str) else None
    row = counts.counting(partial(parse_task, kinds=(kind.name,)))(
        {
            "task_id": name,
            "user_id": name,
            "kind": kind.name,
            "queued_at": datetime.combine(ds, time(), UTC),
            "input": text,
            "choices": None if choices is None else list(choices),
            "reference": golds.outputs.get(name) if isinstance(name, str) else None,
        }
    )
    if not isinstance(row, Refusal) and kind.query(row["input"]) is None:
        return Refusal("malformed_input", shown(row["input"]), row["user_id"])
    return row


def _items(question: Mapping[str, Any], name: object, row_id: str, kind: Kind, undated: date | None) -> Iterator[Taken]:
    profile = question.get("profile")
    if profile is None:
        return
    if not isinstance(profile, list):
        yield "histories", row_id, Refusal("wrong_type_profile", shown(profile), shown(name))
        return
    for number, item in enumerate(profile, 1):
        yield "histories", f"{row_id}/{number}", _item(item, name, kind, undated)


def _item(item: object, user_id: object, kind: Kind, undated: date | None) -> Row | Refusal:
    if not isinstance(item, Mapping):
        return Refusal("not_an_object", shown(item), shown(user_id))
    posted_at = lamp_time(item.get("date"), undated)
    values = {"id": item.get("id"), "date": posted_at, kind.lamp_text: item.get(kind.lamp_text)}
    if kind.lamp_output is not None:
        values[kind.lamp_output] = item.get(kind.lamp_output)
    missing = [field for field, value in values.items() if value is None]
    if missing:
        return Refusal(f"missing_{missing[0]}", shown(item), shown(user_id))
    record = {
        "user_id": user_id,
        "item_id": text_of(values["id"]),
        "kind": kind.name,
        "posted_at": posted_at,
        "text": values[kind.lamp_text],
        "output": text_of(values[kind.lamp_output]) if kind.lamp_output else None,
    }
    return parse_history(record, (kind.name,))


def lamp_time(value: object, undated: date | None) -> object:
    """LaMP's dates, whole numbers between dashes from the year on: 2016, 2016-5, 2016-05-03; else the value itself."""
    if value is None:
        return undated
    text = str(text_of(value))
    if not re.fullmatch(r"\d{1,4}(-\d{1,2}){0,5}", text):
        return value
    numbers = [int(part) for part in text.split("-")]
    try:
        year, month, day, *clock = [*numbers, *[1, 1][len(numbers) - 1 :]]
        return datetime(year, month, day, *clock, tzinfo=UTC)
    except ValueError:
        return text
