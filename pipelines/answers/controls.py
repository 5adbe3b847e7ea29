"""Answer the tasks of a night in the control arms: another user's persona, the default persona, no plug at all.

All arms of a task are answered in one call, so that they share the keys and values of its prompt. Nothing is written.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from llm_jobs.answers import AnsweringLLM, PersonalTask, personal_requests, plain_requests
from llm_jobs.metrics import Scored
from llm_jobs.prompts import Answer, Placement
from pipelines.answers.models import LoadedPlug
from pipelines.answers.queue import QueuedTask
from pipelines.nights.runs import Progress

DRAWS = 5
"""Assignments of other users' personas; the arm `other` is their mean."""

CHUNK = 64
"""Tasks answered in one call, in all their arms."""


class ControlAnswer(NamedTuple):
    """One task's answer in one arm."""

    arm: str
    scored: Scored


def other_users(users: Sequence[str], donors: Sequence[str], seed: int) -> dict[str, str]:
    """Give each of `users` another one of `donors`, in a random way that depends on the seed alone.

    Donors are handed round in a random circle, so nobody gets his own and every donor is used by one donor.

    Raises:
        ValueError: with fewer than two donors nobody can be another.
    """
    if len(set(donors)) < 2:
        raise ValueError("another user's persona needs two users with a history")
    rng = np.random.default_rng(seed)
    circle = [sorted(set(donors))[at] for at in rng.permutation(len(set(donors)))]
    given = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    return {user: given.get(user) or circle[int(rng.integers(len(circle)))] for user in sorted(set(users))}


def control_answers(
    tasks: Sequence[QueuedTask],
    personal: Sequence[PersonalTask],
    loaded: LoadedPlug,
    llm: AnsweringLLM,
    progress: Progress,
) -> Iterator[ControlAnswer]:
    """Answer tasks of one kind in every control arm.

    Args:
        tasks: tasks with a reference.
        personal: the same tasks as the plug takes them.
        loaded: the plug of their kind.
        llm: the frozen LLM.
        progress: told of the tasks done.
    """
    histories = {task.user_id: (task.vectors, task.counts) for task in tasks if len(task.vectors)}
    assignments = list[Mapping[str, str]]()
    if len(histories) > 1:
        assignments = [other_users([task.user_id for task in tasks], list(histories), seed) for seed in range(DRAWS)]
    for start in range(0, len(tasks), CHUNK):
        chunk, own = tasks[start : start + CHUNK], personal[start : start + CHUNK]
        arms = [("other", lent(chunk, own, histories, assignment)) for assignment in assignments]
        arms.append(("default", [forgotten(task) for task in own]))
        requests = [request for _, arm in arms for request in personal_requests(loaded.plug, arm)[0]]
        answers = llm.answer([*requests, *plain_requests(own)], Placement(loaded.plug.config.placement))
        names = [name for name, _ in arms] + ["none"]
        for at, answer in enumerate(answers):
            task = chunk[at % len(chunk)]
            prediction = answer.text if isinstance(answer, Answer) else ""
            yield ControlAnswer(names[at // len(chunk)], Scored(task.user_id, prediction, task.reference or ""))
        progress("control tasks", start + len(chunk), len(tasks))


def lent(
    tasks: Sequence[QueuedTask],
    own: Sequence[PersonalTask],
    histories: Mapping[str, tuple[np.ndarray, np.ndarray]],
    assignment: Mapping[str, str],
) -> list[PersonalTask]:
    """The tasks with the history of the user whom the assignment names."""
    pairs = [histories[assignment[task.user_id]] for task in tasks]
    return [replace(task, vectors=vectors, counts=counts) for task, (vectors, counts) in zip(own, pairs, strict=True)]


def forgotten(task: PersonalTask) -> PersonalTask:
    """The task as if its user had no history."""
    return replace(task, vectors=task.vectors[:0], counts=task.counts[:0])
