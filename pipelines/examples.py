"""Make training examples for a plug: from the histories themselves, and from the tasks of nights that were named.

    items of a user, oldest first:   a  b  c  d  e
    examples:                        b from a;  c from a b;  d from a b c;  ...

An item with an `output` is a target; its history is only what was posted strictly before it. No target is an item whose
text is the text of a task in a night that was not named: that night may be evaluated later.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from embedder.encoder import TextEncoder
from llm_jobs.kinds import Kind
from llm_jobs.training.data import Example
from pipelines.personas.persona_table import runs_of_equals

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """What becomes an example once its texts are encoded."""

    user_id: str
    prompt: str
    target: str
    query: str
    """Encoder text of the task's input."""
    moment: datetime
    """Only items posted strictly before it are the target's history."""


@dataclass(frozen=True)
class Targets:
    """The targets of a kind, and how many were left out."""

    found: Sequence[Target]
    skipped_leak_count: int
    """Items whose text is that of a task in a night that was not named."""


def history_targets(items: Iterable[Row], kind: Kind, choices: Sequence[str] | None, held_texts: set[str]) -> Targets:
    """Targets from the items of `kind` that have an output."""
    found: list[Target] = []
    skipped = 0
    for item in items:
        if item["kind"] != kind.name or not item["output"] or kind.prompt is None:
            continue
        if item["text"].strip() in held_texts:
            skipped += 1
            continue
        prompt = kind.training_prompt(item["text"], choices)
        query = kind.query_encoder_text(prompt)
        found.append(Target(item["user_id"], prompt, item["output"], query, item["posted_at"]))
    return Targets(found, skipped)


def task_targets(tasks: Iterable[Row], kind: Kind, named: set[date]) -> list[Target]:
    """Targets from the references of the nights in `named`, and of no other."""
    return [
        Target(
            task["user_id"], task["input"], task["reference"], kind.query_encoder_text(task["input"]), task["queued_at"]
        )
        for task in tasks
        if task["ds"] in named and task["reference"]
    ]


def held_texts(tasks: Iterable[Row], kind: Kind, named: set[date]) -> set[str]:
    """Texts that the tasks of nights not named ask about."""
    return {(kind.query(task["input"]) or task["input"]).strip() for task in tasks if task["ds"] not in named}


def label_set(tasks: Sequence[Row], items: Iterable[Row], kind: Kind) -> Sequence[str] | None:
    """The choices that prompts of a closed kind list: those of its tasks, else its own, else the outputs seen."""
    for task in tasks:
        if task["choices"]:
            return task["choices"]
    if kind.choices is not None and not kind.choices:
        return sorted({item["output"] for item in items if item["kind"] == kind.name and item["output"]})
    return kind.choices


def examples_of(
    targets: Sequence[Target], items: Sequence[Row], kinds: Mapping[str, Kind], encoder: TextEncoder
) -> list[Example]:
    """Encode items and queries and give each target the items strictly before it.

    Args:
        targets: what the plug shall learn to answer.
        items: all items of all users, sorted by user and then by time; items of unknown kinds are passed over.
        kinds: how an item becomes text.
        encoder: the encoder of the history vectors.
    """
    known = [item for item in items if item["kind"] in kinds]
    texts = [kinds[item["kind"]].encoder_text(item["text"], item["output"]) for item in known]
    vectors = encoder.encode(texts)
    queries = encoder.encode([target.query for target in targets], is_query=True)
    spans = {known[start]["user_id"]: (start, stop) for start, stop in runs_of_equals([i["user_id"] for i in known])}
    times = [item["posted_at"] for item in known]
    examples: list[Example] = []
    for target, query in zip(targets, queries, strict=True):
        start, stop = spans.get(target.user_id, (0, 0))
        history = vectors[start : bisect_left(times, target.moment, start, stop)]
        examples.append(Example(target.user_id, target.prompt, target.target, query, history))
    return examples
