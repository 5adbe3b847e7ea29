"""What `pplug kinds` shows: every kind in a row, or one kind field by field with what a task of it looks like."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedder.errors import UsageError
from llm_jobs.kinds import FOLDER, SPOKEN, Kind, field_meanings
from pipelines.starting.samples import sample_input, sample_of
from pipelines.tables import Row


def spoken_name(name: str, own: Mapping[str, Any]) -> str | None:
    """The other name of a kind, unless pplug.toml gives it to a kind of its own."""
    return next((spoken for spoken, known in SPOKEN.items() if known == name and spoken not in own), None)


def kind_rows(kinds: Mapping[str, Kind], own: Mapping[str, Any]) -> Iterator[Row]:
    """A row for each kind.

    Args:
        kinds: the kinds there are.
        own: the tables [kinds.NAME] of pplug.toml.
    """
    for name, kind in kinds.items():
        yield {
            "kind": name,
            "also": spoken_name(name, own),
            "answers": f"one of {len(kind.choices)}" if kind.choices else "free text",
            "metric": kind.metric.value,
            "trains_on": "histories" if kind.prompt else "tasks with references",
            "from": origin(name, own),
        }


def origin(name: str, own: Mapping[str, Any]) -> str:
    """Where a kind is written down."""
    is_built_in = Path(FOLDER / f"{name}.toml").is_file()
    if name in own:
        return "pplug, changed in pplug.toml" if is_built_in else "pplug.toml"
    return "pplug"


def chosen_kind(name: str, kinds: Mapping[str, Kind]) -> Kind:
    """The kind of a name in the tables; raises UsageError if there is none."""
    if name not in kinds:
        raise UsageError(f"kind {name!r} is not known: `pplug kinds` lists those there are")
    return kinds[name]


def field_rows(kind: Kind, *, as_texts: bool = False) -> Iterator[Row]:
    """A row for each field of a kind, with its meaning.

    Args:
        kind: the kind.
        as_texts: spell values as a person reads them.
    """
    values = asdict(kind)
    for name, meaning in field_meanings().items():
        yield {"field": name, "value": _spelled(values[name]) if as_texts else values[name], "meaning": meaning}


def sample_rows(kind: Kind) -> Iterator[Row]:
    """What the LLM and the encoder read of a made-up item and task."""
    sample = sample_of(kind)
    text, output = sample.items[0][0]
    task_input = sample_input(kind)
    yield {"sample": "prompt of a task", "text": task_input}
    yield {"sample": "the encoder reads of the task", "text": kind.query_encoder_text(task_input)}
    yield {"sample": "the encoder reads of an item", "text": kind.encoder_text(text, output)}
    if kind.prompt is not None and output is not None:
        yield {"sample": "the item as a prompt to train with", "text": kind.training_prompt(text)}
        yield {"sample": "and its answer", "text": kind.target.format(output=output)}


def _spelled(value: object) -> str | None:
    if isinstance(value, tuple):
        return ", ".join(part if part.strip() else json.dumps(part) for part in map(str, value))  # line breaks are seen
    return str(value).lower() if isinstance(value, bool) else None if value in (None, "") else str(value)
