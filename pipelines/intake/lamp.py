"""The benchmark's own files, https://github.com/LaMP-Benchmark/LaMP, as rows of tasks and histories.

    questions.json ─▶ one task per question, whose user it is ─▶ tasks
          │               └▶ the items of its profile ─────────▶ histories
    outputs.json ─▶ references

Each row stands alone: a question that is refused leaves its items in, and the other way round.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from itertools import chain, islice
from typing import IO, Any, Final

from embedder.errors import UsageError
from llm_jobs.kinds import Kind
from pipelines.intake import limits
from pipelines.intake.chunks import Chunk
from pipelines.intake.found import as_text
from pipelines.intake.lamp_files import Golds, questions_of
from pipelines.intake.rows import Refusal, Row, described

PEEKED: Final = 20
"""Questions that are looked at to find the kind."""

Taken = tuple[str, str, Row | Refusal]
"""Table, row id, row as it was found."""


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


def lamp_chunks(
    label: str,
    file: IO[bytes],
    golds: Golds,
    ds: date,
    kinds: Mapping[str, Kind],
    kind: str | None,
    undated: date | None,
) -> Iterator[tuple[str, Chunk]]:
    """The rows of a questions file and its answers, a table and a chunk of its rows at a time."""
    waiting: dict[str, list[tuple[str, Row | Refusal]]] = {"histories": [], "tasks": []}
    size = 0
    for name, row_id, row in read_lamp(label, file, golds, ds, kinds, kind, undated):
        waiting[name].append((row_id, row))
        size += 200 + (
            sum(len(value) for value in row.values() if isinstance(value, str)) if isinstance(row, dict) else 0
        )
        if size >= limits.BATCH_BYTES or len(waiting[name]) >= limits.BATCH_ROWS:
            yield from ((table, _chunk(rows)) for table, rows in waiting.items())
            waiting, size = {"histories": [], "tasks": []}, 0
    yield from ((table, _chunk(rows)) for table, rows in waiting.items())


def _chunk(found: Sequence[tuple[str, Row | Refusal]]) -> Chunk:
    taken = [(row_id, row) for row_id, row in found if not isinstance(row, Refusal)]
    refused = [(row_id, row) for row_id, row in found if isinstance(row, Refusal)]
    names = dict.fromkeys(name for _, row in taken for name in row)
    columns = {name: [row.get(name) for _, row in taken] for name in names}
    ids = [row_id for row_id, _ in taken]
    return Chunk(len(taken), columns, ids.__getitem__, refused)


def read_lamp(
    label: str,
    file: IO[bytes],
    golds: Golds,
    ds: date,
    kinds: Mapping[str, Kind],
    kind: str | None,
    undated: date | None,
) -> Iterator[Taken]:
    """The rows of a questions file and its answers.

    Args:
        label: what the file is called in row ids.
        file: a JSON list of {"id", "input", "profile"}.
        golds: the answers.
        ds: the night; tasks are queued at its midnight.
        kinds: the kinds there are.
        kind: name of the questions' kind, found out unless given.
        undated: day of profile items without a date (LaMP's user-based files have none); they are refused unless given.

    Raises:
        UsageError: if the kind cannot be found out, or there is no such kind.
    """
    if kind is not None and kind not in kinds:
        raise UsageError(f"no kind {kind!r}: there are {', '.join(kinds)}")
    stream = questions_of(file)
    first = list(islice(stream, PEEKED))
    found = kinds[kind] if kind is not None else lamp_kind(first, golds.task, kinds)
    if found is None and (len(first) == PEEKED or any(isinstance(question, Mapping) for question in first)):
        raise UsageError(f"{label}: the kind of its questions is not known: name it with --kind")
    seen: set[str] = set()
    for number, question in enumerate(chain(first, stream), 1):
        row_id = f"{label}:{number}"
        if isinstance(question, Refusal) or not isinstance(question, Mapping) or found is None:
            refusal = question if isinstance(question, Refusal) else Refusal("not_an_object", described(question))
            yield "tasks", row_id, refusal
            continue
        given = question.get("id")
        name = as_text(given)
        if name is not None:
            seen.add(name)
            row_id = row_id if len(name) > limits.ID_CHARACTERS or not _is_writable(name) else name
        yield "tasks", row_id, _task(question, given if name is None else name, golds, ds, found)
        yield from _items(question, given if name is None else name, row_id, found, undated)
    yield from _golds_without_question(golds, seen)


def _golds_without_question(golds: Golds, seen: Container[str]) -> Iterator[Taken]:
    for name, output in golds.outputs.items():
        if name not in seen:
            yield "tasks", name, Refusal("gold_without_question", described(output), name)
    for row_id, refusal in golds.refused:
        yield "tasks", row_id, refusal


def _task(question: Mapping[str, Any], name: object, golds: Golds, ds: date, kind: Kind) -> Row | Refusal:
    text = question.get("input")
    choices = kind.choices_in(text) if isinstance(text, str) else None
    if isinstance(text, str) and text.strip() and isinstance(name, str) and kind.query(text) is None:
        return Refusal("malformed_input", described(text), name if len(name) <= limits.ID_CHARACTERS else None)
    return {
        "task_id": name,
        "user_id": name,
        "kind": kind.name,
        "queued_at": datetime.combine(ds, time(), UTC),
        "input": text,
        "choices": None if choices is None else list(choices),
        "reference": golds.outputs.get(name) if isinstance(name, str) else None,
    }


def _items(question: Mapping[str, Any], name: object, row_id: str, kind: Kind, undated: date | None) -> Iterator[Taken]:
    profile = question.get("profile")
    if profile is None:
        return
    user = name if isinstance(name, str) and len(name) <= limits.ID_CHARACTERS and _is_writable(name) else None
    if not isinstance(profile, list):
        yield "histories", row_id, Refusal("wrong_type_profile", described(profile), user)
        return
    for number, item in enumerate(profile, 1):
        yield "histories", f"{row_id}/{number}", _item(item, name, user, kind, undated)


def _item(item: object, name: object, user: str | None, kind: Kind, undated: date | None) -> Row | Refusal:
    if not isinstance(item, Mapping):
        return Refusal("not_an_object", described(item), user)
    posted_at = lamp_time(item.get("date"), undated)
    values = {"id": item.get("id"), "date": posted_at, kind.lamp_text: item.get(kind.lamp_text)}
    if kind.lamp_output is not None:
        values[kind.lamp_output] = item.get(kind.lamp_output)
    missing = [field for field, value in values.items() if value is None]
    if missing:
        return Refusal(f"missing_{missing[0]}", user_id=user)
    return {
        "user_id": name,
        "item_id": values["id"],
        "kind": kind.name,
        "posted_at": posted_at,
        "text": values[kind.lamp_text],
        "output": values[kind.lamp_output] if kind.lamp_output else None,
    }


def lamp_time(value: object, undated: date | None) -> object:
    """LaMP's dates: a year, or numbers between dashes from the year on, or 20160503; else the value itself."""
    if value is None:
        return undated
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
        return datetime(year, month, day, *clock, tzinfo=UTC)
    except ValueError:
        return text


def _is_writable(text: str) -> bool:
    try:
        text.encode("utf8")
    except UnicodeError:
        return False
    return True
