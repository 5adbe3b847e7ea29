"""The queue of a night: its tasks, each joined with its user's persona."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from embedder.compact import FloatArray
from embedder.encoder import TextEncoder
from embedder.errors import InputMissing, PplugError
from embedder.histories import History, PastLabels
from llm_jobs.kinds import Kind
from llm_jobs.tasks import PersonalTask
from pipelines.personas.past_labels import LabelledItem, labelled_items, labels_behind
from pipelines.personas.persona_table import compact_vectors
from pipelines.tables.views import run_sql

EVERYONE = ("", "\U0010ffff")
"""Every user id lies between these two."""


@dataclass(frozen=True, eq=False)
class QueuedTask:
    """A task of the night with what is known of its user."""

    task_id: str
    user_id: str
    kind: str
    input: str
    choices: tuple[str, ...] | None
    reference: str | None
    history: History
    items: Sequence[Mapping[str, str]]
    """(n,) kind and item_id of the most typical item of each vector."""


def newest_personas(db: duckdb.DuckDBPyConnection, ds: date, encoder_sha256: str) -> date:
    """Find the newest night of `persona_vectors` that the tasks of `ds` may use.

    Raises:
        InputMissing: if no night up to `ds` was encoded.
        PplugError: if that night was encoded with another encoder than the plug wants.
    """
    newest = run_sql(db, "jobs/newest_personas", {"ds": ds}).to_pylist()
    if not newest:
        raise InputMissing(f"no persona_vectors up to {ds}: run `pplug encode --ds {ds}`")
    persona_ds, built_with = newest[0]["persona_ds"], newest[0]["encoder_sha256"]
    if built_with != encoder_sha256:
        raise PplugError(
            f"persona_vectors ds={persona_ds} was built with encoder {built_with[:8]}, but this plug wants "
            f"{encoder_sha256[:8]}: run `pplug encode --ds {persona_ds}` with that encoder"
        )
    return persona_ds


def queued_tasks(
    db: duckdb.DuckDBPyConnection, ds: date, persona_ds: date, users: tuple[str, str], width: int
) -> list[QueuedTask]:
    """Read the tasks of a night, joined by user with the personas of `persona_ds`.

    Args:
        db: a connection to the tables.
        ds: night of the tasks.
        persona_ds: night of the personas.
        users: the first and the last user wanted; `EVERYONE` for all.
        width: D of the vectors, known even if no user has a history.
    """
    params = {"ds": ds, "persona_ds": persona_ds, "first_user": users[0], "last_user": users[1]}
    rows = run_sql(db, "jobs/tasks_of_users", params)
    names = ("task_id", "user_id", "kind", "input", "choices", "reference", "items")
    columns = {name: rows.column(name).to_pylist() for name in names}
    histories = histories_of(rows, width, labelled_items(db, persona_ds, rows.column("user_id").to_pylist()))
    return [
        QueuedTask(
            task_id=columns["task_id"][at],
            user_id=columns["user_id"][at],
            kind=columns["kind"][at],
            input=columns["input"][at],
            choices=None if columns["choices"][at] is None else tuple(columns["choices"][at]),
            reference=columns["reference"][at],
            history=histories[at],
            items=columns["items"][at] or [],
        )
        for at in range(rows.num_rows)
    ]


def histories_of(rows: pa.Table, width: int, labelled: Mapping[str, Sequence[LabelledItem]]) -> list[History]:
    """Make what a plug sees of the user of each row.

    Args:
        rows: user_id and columns of `persona_vectors`, which are null where there is no persona.
        width: D of the vectors.
        labelled: by user, the items that the persona was made of.
    """
    users, typical = rows.column("user_id").to_pylist(), rows.column("items").to_pylist()
    known: dict[str, PastLabels] = {}
    vectors, scales, counts = (rows.column(name) for name in ("vectors", "vector_scales", "counts"))
    histories: list[History] = []
    for at in range(rows.num_rows):
        if not vectors[at].is_valid:
            histories.append(History.empty(width))
            continue
        own = compact_vectors(vectors[at].values, scales[at].values, width)
        vectors_of_user = own.floats()
        if users[at] not in known:
            known[users[at]] = labels_behind(vectors_of_user, typical[at], labelled.get(users[at], []))
        sizes = counts[at].values.to_numpy().astype(np.float32)
        histories.append(History.of(vectors_of_user, sizes, known[users[at]]))
    return histories


def personal_tasks(tasks: Sequence[QueuedTask], kinds: Mapping[str, Kind], encoder: TextEncoder) -> list[PersonalTask]:
    """Encode tasks as the plug takes them."""
    queries = encoder.encode([kinds[task.kind].query_encoder_text(task.input) for task in tasks], is_query=True)
    labels = list(dict.fromkeys(label for task in tasks for label in task.choices or ()))
    names = dict(zip(labels, encoder.encode(labels), strict=True)) if labels else {}
    personal: list[PersonalTask] = []
    for task, query in zip(tasks, queries, strict=True):
        named = np.stack([names[label] for label in task.choices]) if task.choices else None
        most = kinds[task.kind].max_new_tokens
        personal.append(PersonalTask(task.input, query, task.history, task.choices, most, named))
    return personal


def top_items(task: QueuedTask, weights: FloatArray | None, most: int = 3) -> list[dict[str, Any]]:
    """List the items that the plug looked at most, the heaviest first; ties in the persona's own order."""
    if weights is None:
        return []
    order = np.argsort(-weights, kind="stable")[:most]
    return [dict(task.items[at]) | {"weight": float(weights[at])} for at in order]
