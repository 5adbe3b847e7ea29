"""Why an answer is what it is: the same task for its own user, for somebody else, for a new user and without a plug.

    task ⋈ persona ─┬─ own, other, default ─▶ plug ─▶ answers with their probabilities
                    └─ none ────────────────▶ the language model alone

Nothing is written.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from embedder.errors import InputMissing
from llm_jobs.answers import answer_tasks, plain_requests
from llm_jobs.kinds import Kind
from llm_jobs.prompts import Answer, Placement, Refusal
from pipelines.answers.models import GenerateConfig, load_models, load_plugs
from pipelines.answers.queue import EVERYBODY, QueuedTask, personal_tasks, queued_tasks
from pipelines.nights.precisions import with_precisions
from pipelines.personas.nights import newest_nights, nights_of
from pipelines.personas.stored import Persona, read_personas, with_texts
from pipelines.tables import Row
from pipelines.tables.queries import run_query
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse
from pipelines.verdicts.words import ARMS

OTHERS = 20  # users of the night who are asked for a persona; the first who has one is somebody else


@dataclass(frozen=True)
class Explanation:
    """All that is known of an answer."""

    task: Row  # the task, what was answered, and the reference
    answers: Sequence[Row]  # what is answered with each persona; empty unless plugs are given
    items: Sequence[Row]  # the items that weighed most, with their texts: rows of `top_items`


def explain(
    warehouse: Warehouse,
    task_id: str,
    plugs: Sequence[Path],
    config: GenerateConfig,
    kinds: Mapping[str, Kind],
    ds: date | None = None,
) -> Explanation:
    """Explain the answer to a task of a night, its newest unless given; without plugs nothing is answered again.

    Raises:
        InputMissing: if there is no such task, or no plug for its kind.
    """
    with connect(warehouse) as db:
        wanted: Any = {"task_id": task_id, "ds": ds}
        found = run_sql(db, "jobs/task", wanted).to_pylist()
        if not found:
            raise InputMissing(f"there is no task {task_id!r}: run `pplug sql 'select task_id from tasks limit 5'`")
        task = found[0]
        night = {"task_id": task_id, "ds": task["ds"].isoformat()}
        items = run_query(db, "top_items", night).to_pylist()
        answers = list(_answers(warehouse, db, task, plugs, config, kinds)) if plugs else []
    return Explanation(task, answers, items)


def _answers(
    warehouse: Warehouse, db: Any, task: Row, plugs: Sequence[Path], config: GenerateConfig, kinds: Mapping[str, Kind]
) -> Iterator[Row]:
    models = load_models(with_precisions(warehouse, config))
    loaded = load_plugs(plugs, models)
    if task["kind"] not in loaded or task["kind"] not in kinds:
        raise InputMissing(f"no plug answers kind {task['kind']!r}: name one with --plug")
    plug, width = loaded[task["kind"]].plug, models.encoder.width
    nights = newest_nights(nights_of(db), task["ds"], models.encoder.sha256).params
    text_kinds = [task["kind"]] if plug.config.turns else []
    queue = queued_tasks(db, task["ds"], nights, (task["user_id"], task["user_id"]), width, text_kinds)
    own = next(one for one in queue if one.task_id == task["task_id"])
    personas = {"own": own.persona, "default": Persona.empty(width)}
    users = {row["user_id"] for row in run_sql(db, "jobs/tasks_of_users", {"ds": task["ds"], **EVERYBODY}).to_pylist()}
    others = sorted(read_personas(db, nights, sorted(users - {own.user_id})[:OTHERS], width).items())
    if others:
        [personas["other"]] = with_texts(db, dict(others[:1]), nights, text_kinds).values()
    cases: list[QueuedTask] = [replace(own, persona=persona) for persona in personas.values()]
    personal = personal_tasks(cases, kinds, models.encoder)
    given = dict(zip(personas, answer_tasks(models.llm, plug, personal), strict=True))
    given["none"] = models.llm.answer(plain_requests(personal[:1]), Placement.AFTER)[0]
    for arm, words in (ARMS | {"own": "the user's own persona"}).items():
        if arm in given:
            yield _row(arm, words, given[arm])


def _row(arm: str, words: str, answer: Answer | Refusal) -> Row:
    said = (None, None) if isinstance(answer, Refusal) else (answer.text, answer.score)
    probability = None if said[1] is None else math.exp(said[1])
    return {"answered with": words, "arm": arm, "answer": said[0], "score": said[1], "probability": probability}
