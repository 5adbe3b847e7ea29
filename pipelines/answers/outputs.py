"""Answer the tasks of a shard of users, and turn the answers into rows of `outputs` and `rejects`."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal

import pyarrow as pa

from embedder.encoder import Tell
from llm_jobs.answers import answer_tasks
from llm_jobs.engine.engine import untold
from llm_jobs.kinds import Kind
from llm_jobs.prompts import Answer, Refusal
from pipelines.answers.models import LoadedPlug, Models
from pipelines.answers.queue import QueuedTask, personal_tasks, top_items
from pipelines.tables.schema import file_schema

JOB = "generate"


Results = Sequence[tuple[QueuedTask, Answer | Refusal]]
"""A shard's tasks, each with its answer or the reason why there is none."""


def answer_queue(
    tasks: Sequence[QueuedTask],
    plugs: Mapping[str, LoadedPlug],
    kinds: Mapping[str, Kind],
    models: Models,
    tell: Tell = untold,
) -> list[tuple[QueuedTask, Answer | Refusal]]:
    """Answer every task with the plug of its kind, or say why not; `tell` hears how many more are done."""
    results: list[tuple[QueuedTask, Answer | Refusal]] = [
        (task, Refusal("no_plug", f"no plug answers kind {task.kind!r}: train one and pass it with --plug"))
        for task in tasks
        if task.kind not in plugs or task.kind not in kinds
    ]
    for kind in sorted(plugs.keys() & kinds.keys()):
        own = [task for task in tasks if task.kind == kind]
        personal = personal_tasks(own, kinds, models.encoder)
        results += zip(own, answer_tasks(models.llm, plugs[kind].plug, personal, tell), strict=True)
    return results


def shard_tables(results: Results, run_id: str, constants: Mapping[str, Any]) -> dict[str, pa.Table]:
    """Make a shard's rows of each table."""
    outputs, rejects = list[dict[str, Any]](), list[dict[str, Any]]()
    for task, result in results:
        if isinstance(result, Refusal):
            rejects.append(reject_row(task, result) | {"run_id": run_id})
        else:
            outputs.append(output_row(task, result, **constants) | {"run_id": run_id})
    return {
        name: pa.Table.from_pylist(rows, schema=file_schema(name))
        for name, rows in (("outputs", outputs), ("rejects", rejects))
    }


def output_row(
    task: QueuedTask, answer: Answer, persona_ds: date, plugs: Mapping[str, str], sha256s: Mapping[str, str]
) -> dict[str, Any]:
    """Make one row of `outputs`, apart from the run."""
    source = persona_source(task, answer)
    return {
        "task_id": task.task_id,
        "user_id": task.user_id,
        "kind": task.kind,
        "output": answer.text,
        "score": answer.score,
        "finish_reason": answer.finish_reason,
        "persona_source": source,
        "persona_ds": persona_ds if source == "history" else None,
        "top_items": top_items(task, answer.weights),
        "prompt_tokens": answer.prompt_tokens,
        "output_tokens": answer.output_tokens,
        "is_shortened": answer.is_shortened,
        "plug_sha256": plugs[task.kind],
        **sha256s,
    }


def persona_source(task: QueuedTask, answer: Answer) -> Literal["history", "default"]:
    """Whether the answer depends on anything that the user did; a plug of earlier turns finds nothing without texts."""
    is_seen = answer.weights is None or bool(answer.weights.any())
    return "history" if len(task.history.vectors) and is_seen else "default"


def reject_row(task: QueuedTask, refusal: Refusal) -> dict[str, Any]:
    """Make one row of `rejects`, apart from the run."""
    return {
        "job": JOB,
        "row_id": task.task_id,
        "user_id": task.user_id,
        "reason": refusal.reason,
        "detail": refusal.detail,
        "source": "tasks",
    }
