"""How good a Personalizer's answers are, beside what the same models say for somebody else, or for nobody.

tasks with references, personas ─▶ cases ─▶ own, other, default, none ─▶ one row a method and metric
"""

from collections.abc import Mapping, Sequence
from typing import Any

from embedder.plug import PersonaPlug
from llm_jobs.kinds import Kind
from llm_jobs.labels import fixed_labels
from pipelines.answers.models import Models
from pipelines.answers.queue import QueuedTask, personal_tasks
from pipelines.baselines.answering import answer_arms
from pipelines.baselines.cases import CHUNK, DRAWS, Case, other_users
from pipelines.baselines.methods import BaselineContext, TrainedPlug
from pipelines.baselines.registry import METHODS, OWN_PLUG
from pipelines.baselines.table import OWN, slice_rows
from pipelines.library.personas import UserPersona
from pipelines.nights.runs import Progress

COMPARED = ("other", "default", "none")
"""Methods beside the user's own persona: another user's, that of a user without a history, and no plug at all."""


def cases_of(
    tasks: Sequence[QueuedTask], personas: Mapping[str, UserPersona], models: Models, kind: Kind
) -> list[Case]:
    """Tasks with what each method may know of their user."""
    owners = sorted({task.user_id for task in tasks})
    donors = [user for user in owners if user in personas]
    draws = [other_users(owners, donors, seed) for seed in range(DRAWS)] if donors[1:] else []
    return [
        Case(
            task,
            personal,
            (),
            personas[task.user_id].item_count if task.user_id in personas else 0,
            [personas[draw[task.user_id]].persona for draw in draws],
        )
        for task, personal in zip(tasks, personal_tasks(tasks, {kind.name: kind}, models.encoder), strict=True)
    ]


def score_rows(
    cases: Sequence[Case], plug: PersonaPlug, models: Models, kind: Kind, compared: Sequence[str], progress: Progress
) -> list[dict[str, Any]]:
    """A row for each method and metric: value, 95% interval over users, and the difference to the user's own persona.

    Args:
        cases: tasks with references.
        plug: answers them.
        models: the two frozen models.
        kind: how answers are measured.
        compared: methods beside `own`.
        progress: told of the tasks done.
    """
    names = [name for name in (OWN, *compared) if name != "other" or all(case.others for case in cases)]
    context = BaselineContext(kind, models.llm, {OWN_PLUG: TrainedPlug(plug, None)})
    methods = {name: METHODS[name].build(context) for name in names}
    chunks = (cases[start : start + CHUNK] for start in range(0, len(cases), CHUNK))
    arms = answer_arms(chunks, methods, models.llm, len(cases), progress)
    labels = fixed_labels([case.task.choices for case in cases], kind.choices)
    rows = slice_rows(kind, {name: arm.answers for name, arm in arms.items()}, labels)
    return [{**row, "task_count": len(cases)} for row in rows]
