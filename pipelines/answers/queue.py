"""The queue of a night: its tasks, each joined with its user's persona."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb
import numpy as np

from embedder.compact import FloatArray
from embedder.encoder import TextEncoder
from embedder.histories import History
from llm_jobs.kinds import Kind, Metric
from llm_jobs.tasks import Pair, PersonalTask
from pipelines.personas.stored import Persona, read_personas, with_texts
from pipelines.tables.views import run_sql

EVERYBODY: Mapping[str, str] = {"first_user": "", "last_user": chr(sys.maxunicode)}  # the range of all users


@dataclass(frozen=True, eq=False)
class QueuedTask:
    """A task of the night with what is known of its user."""

    task_id: str
    user_id: str
    kind: str
    input: str
    choices: tuple[str, ...] | None
    reference: str | None
    persona: Persona

    @property
    def history(self) -> History:
        """What the plug sees of the user."""
        return self.persona.history


def queued_tasks(
    db: duckdb.DuckDBPyConnection,
    ds: date,
    nights: Mapping[str, Any],
    users: tuple[str, str],
    width: int,
    text_kinds: Collection[str] = (),
) -> list[QueuedTask]:
    """Read the tasks of a night, of the users from the first to the last given, with personas as of `nights`.

    Users with a task of a kind in `text_kinds` come with the texts of their items of these kinds.
    """
    rows = run_sql(db, "jobs/tasks_of_users", {"ds": ds, "first_user": users[0], "last_user": users[1]}).to_pylist()
    personas = read_personas(db, nights, {row["user_id"] for row in rows}, width)
    readers = {row["user_id"] for row in rows if row["kind"] in text_kinds} & personas.keys()
    personas |= with_texts(db, {user: personas[user] for user in readers}, nights, text_kinds)
    nobody = Persona.empty(width)
    return [
        QueuedTask(
            **row | {"choices": None if row["choices"] is None else tuple(row["choices"])},
            persona=personas.get(row["user_id"], nobody),
        )
        for row in rows
    ]


def personal_tasks(tasks: Sequence[QueuedTask], kinds: Mapping[str, Kind], encoder: TextEncoder) -> list[PersonalTask]:
    """Encode tasks as the plug takes them."""
    queries = encoder.encode([kinds[task.kind].query_encoder_text(task.input) for task in tasks], is_query=True)
    labels = list(dict.fromkeys(label for task in tasks for label in task.choices or ()))
    names = dict(zip(labels, encoder.encode(labels), strict=True)) if labels else {}
    personal: list[PersonalTask] = []
    for task, query in zip(tasks, queries, strict=True):
        named = np.stack([names[label] for label in task.choices]) if task.choices else None
        kind = kinds[task.kind]
        rules: Any = {"stop": kind.stop, "no_repeat": kind.no_repeat, "is_scale": kind.metric is Metric.RATING}
        rules |= {"query": kind.query(task.input) or task.input, "pairs": pairs_of(task.persona, kind)}
        personal.append(
            PersonalTask(task.input, query, task.history, task.choices, kind.max_new_tokens, named, **rules)
        )
    return personal


def pairs_of(persona: Persona, kind: Kind) -> list[Pair | None]:
    """Text and output of the persona's items that are of a kind; None for the others."""
    named = zip(persona.items, persona.pairs, strict=False)
    return [pair if item["kind"] == kind.name else None for item, pair in named]


TOP_ITEMS = 3  # items that an answer names as those that weighed most


def top_items(task: QueuedTask, weights: FloatArray | None) -> list[dict[str, Any]]:
    """List the items that the plug looked at most, the heaviest first; ties in the persona's own order."""
    if weights is None:
        return []
    order = np.argsort(-weights, kind="stable")[:TOP_ITEMS]
    return [dict(task.persona.items[at]) | {"weight": float(weights[at])} for at in order if weights[at]]
