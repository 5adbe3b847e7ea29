"""Answer closed tasks by pointing: a plug with labels tells how probable each choice is, from the history alone.

    PersonalTask ─▶ evidence of each choice ─▶ PointingHead ─▶ log p(choice) ─▶ Answer

The LLM is read only for its values of the prompt, and only where the plug sees these.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from embedder.compact import FloatArray
from embedder.encoder import Tell
from embedder.evidence import label_evidence
from embedder.histories import History
from embedder.plug import PersonaPlug
from embedder.pointing import ChoiceBatch, PointingHead
from llm_jobs.engine.engine import untold
from llm_jobs.labels import best_label, spelled_as
from llm_jobs.prompts import Answer, Placement, PromptRefused, Refusal
from llm_jobs.tasks import AnsweringLLM, PersonalTask

CLOSED_BATCH: Final = 256  # tasks that are scored at once

LOOKED_AT: Final = 20.0
"""Sharpness of the weights that tell which items an answer leans on: that of the vote in the middle."""


def point_at_choices(
    llm: AnsweringLLM, plug: PersonaPlug, tasks: Sequence[PersonalTask], tell: Tell = untold
) -> list[Answer | Refusal]:
    """Answer every task with one of its choices, those of the plug where it has none, or say why not; in order."""
    found: dict[int, Answer | Refusal] = {}
    alike = defaultdict[tuple[str, ...], list[int]](list)
    can_be_said: dict[tuple[str, ...], bool] = {}
    for at, task in enumerate(tasks):
        choices = plug.config.labels if task.choices is None else task.choices
        if choices not in can_be_said:  # the end token is one
            can_be_said[choices] = bool(choices) and all(len(llm.answer_ids(choice)) > 1 for choice in choices)
        refusal = refused(llm, task, can_be_said=can_be_said[choices])
        if refusal:
            found[at] = refusal
        else:
            alike[choices].append(at)
    for choices, places in alike.items():
        for start in range(0, len(places), CLOSED_BATCH):
            some = places[start : start + CLOSED_BATCH]
            found |= zip(some, scored(llm, plug, [tasks[at] for at in some], choices), strict=True)
            tell(len(some))
    return [found[at] for at in range(len(tasks))]


def chosen_labels(llm: AnsweringLLM, plug: PersonaPlug, tasks: Sequence[PersonalTask]) -> list[str]:
    """The answers alone; "" for a task that is refused."""
    found = point_at_choices(llm, plug, tasks)
    return ["" if isinstance(one, Refusal) else one.text for one in found]


def refused(llm: AnsweringLLM, task: PersonalTask, *, can_be_said: bool) -> Refusal | None:
    """Why a task cannot be answered, by the rules of all engines; None if it can."""
    if not can_be_said:
        return Refusal("empty_choice", "one of the choices has no tokens")
    try:
        llm.parts(task.prompt, Placement.AFTER, 0)
    except PromptRefused as error:
        return error.refusal
    return None


def scored(
    llm: AnsweringLLM, plug: PersonaPlug, tasks: Sequence[PersonalTask], choices: tuple[str, ...]
) -> list[Answer]:
    """Choose the most probable choice of each task, of a scale the median."""
    log_probs, prompt_tokens = choice_log_probs(llm, plug, tasks, choices)
    answers: list[Answer] = []
    for task, row, tokens in zip(tasks, log_probs, prompt_tokens, strict=True):
        best, is_tied = best_label(np.exp(row), choices, is_scale=task.is_scale)
        weights = looked_at(task)
        answers.append(
            Answer(choices[best], float(row[best]), "choice", tokens, 0, tie_count=int(is_tied), weights=weights)
        )
    return answers


def choice_log_probs(
    llm: AnsweringLLM, plug: PersonaPlug, tasks: Sequence[PersonalTask], choices: tuple[str, ...]
) -> tuple[FloatArray, list[int]]:
    """The log-probability of each choice (B, C), and how many tokens the LLM read of each task."""
    head = plug.head
    assert isinstance(head, PointingHead)
    spelled = tuple(spelled_as(choice, plug.config.labels) for choice in choices)
    found = [label_evidence(task.task, respelled(task.history, spelled), spelled) for task in tasks]
    queries = torch.from_numpy(np.stack([task.task for task in tasks]))
    named = [np.zeros(len(choices)) if task.names is None else task.names @ task.task for task in tasks]
    values, tokens = None, [0] * len(tasks)
    if plug.config.values_width:
        tasks, tokens = with_values(llm, tasks), [len(before_of(llm, task)) for task in tasks]
        values = torch.from_numpy(np.stack([task.values for task in tasks if task.values is not None]))
    batch = ChoiceBatch.of(found, torch.tensor(np.stack(named), dtype=torch.float32))
    return head.log_probs(queries, values, batch, spelled).numpy(), tokens


def with_values(llm: AnsweringLLM, tasks: Sequence[PersonalTask]) -> list[PersonalTask]:
    """The tasks with the LLM's pooled values of their prompts; those that have them are left alone."""
    missing = [at for at, task in enumerate(tasks) if task.values is None]
    values = llm.pooled_values([before_of(llm, tasks[at]) for at in missing]).float().numpy()
    found = dict(zip(missing, values, strict=True))
    return [replace(task, values=found.get(at, task.values)) for at, task in enumerate(tasks)]


def before_of(llm: AnsweringLLM, task: PersonalTask) -> tuple[int, ...]:
    """What the LLM reads of a task."""
    return llm.parts(task.prompt, Placement.AFTER, 0).before


def respelled(history: History, choices: Sequence[str]) -> History:
    """A history whose labels are spelled like the choices that they name."""
    past = history.past
    return history._replace(past=past._replace(names=tuple(spelled_as(name, choices) for name in past.names)))


def looked_at(task: PersonalTask) -> FloatArray:
    """(n,) how much each of the user's vectors weighs in the vote; they sum to one, or to zero without a history."""
    history = task.history
    if not len(history.vectors):
        return np.zeros(0, np.float32)
    scores = LOOKED_AT * (history.vectors @ task.task)
    weights = np.exp(scores - scores.max()) * history.counts
    return (weights / weights.sum()).astype(np.float32)
