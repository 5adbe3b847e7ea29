"""Tell who was in a plug's training from how well it foretells what users produced.

users of the training ──┐
users held out ─────────┴─▶ loss of what each produced ─▶ AUC: a member's loss is the smaller one
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from embedder.histories import History
from embedder.plug import PersonaPlug
from llm_jobs.answers import personal_requests
from llm_jobs.closed import choice_log_probs
from llm_jobs.labels import spelled_as
from llm_jobs.metrics import Floats
from llm_jobs.prompts import Answer, Placement
from llm_jobs.tasks import AnsweringLLM, PersonalTask
from llm_jobs.training.data import Example

TARGETS = 3  # newest targets of a user that count

RESAMPLES = 1_000


class Area(NamedTuple):
    """Area under the ROC curve with its 95% interval over users; one half is chance."""

    value: float
    low: float
    high: float


def chosen_users(users: Iterable[str], members: Container[str], most: int) -> list[str]:
    """At most so many users, half of them members; none if there are fewer than two of either."""
    ordered = list(users)
    inside = [user for user in ordered if user in members]
    outside = [user for user in ordered if user not in members]
    half = min(most // 2, len(inside), len(outside))
    return sorted([*inside[:half], *outside[:half]]) if half > 1 else []


def user_losses(llm: AnsweringLLM, plug: PersonaPlug, examples: Sequence[Example]) -> dict[str, float]:
    """By user the mean of their examples' losses: negative log-probability of what they produced, per token."""
    losses = label_losses(llm, plug, examples) if plug.config.labels else text_losses(llm, plug, examples)
    of_user = defaultdict[str, list[float]](list)
    for example, loss in zip(examples, losses, strict=True):
        if loss is not None:
            of_user[example.user_id].append(loss)
    return {user: float(np.mean(own)) for user, own in of_user.items()}


def label_losses(llm: AnsweringLLM, plug: PersonaPlug, examples: Sequence[Example]) -> list[float | None]:
    """Of plugs that point at labels; None for what is no label."""
    labels = plug.config.labels
    log_probs, _ = choice_log_probs(llm, plug, [task_of(one, labels, None) for one in examples], labels)
    place = {label: at for at, label in enumerate(labels)}
    named = [place.get(spelled_as(one.target, labels)) for one in examples]
    return [None if at is None else -float(row[at]) for at, row in zip(named, log_probs, strict=True)]


def text_losses(llm: AnsweringLLM, plug: PersonaPlug, examples: Sequence[Example]) -> list[float | None]:
    """Of plugs that speak to the LLM; None for what it refuses."""
    requests, _ = personal_requests(llm, plug, [task_of(one, None, (one.target,)) for one in examples])
    answers = llm.answer(requests, Placement(plug.config.placement))
    return [-answer.score if isinstance(answer, Answer) else None for answer in answers]


def task_of(example: Example, labels: Sequence[str] | None, choices: tuple[str, ...] | None) -> PersonalTask:
    """An example as a task; with `labels` its history tells which of them the user gave."""
    outputs = example.outputs[: len(example.history)]
    spelled = [None if one is None or labels is None else spelled_as(one, labels) for one in outputs]
    history = History.of_items(example.history, spelled if labels is not None else ())
    return PersonalTask(example.prompt, example.task, history, choices, 1)


def area(members: Sequence[float], others: Sequence[float]) -> Area:
    """AUC of telling members by their smaller losses; users of both groups are resampled."""
    inside, outside = np.array(members, np.float64), np.array(others, np.float64)
    rng = np.random.default_rng(0)
    drawn = [auc(rng.choice(inside, len(inside)), rng.choice(outside, len(outside))) for _ in range(RESAMPLES)]
    value, (low, high) = auc(inside, outside), np.percentile(drawn, (2.5, 97.5))
    return Area(value, float(min(low, value)), float(max(high, value)))


def auc(members: Floats, others: Floats) -> float:
    """How often a member's loss is smaller than that of another; equal ones count half."""
    ordered = np.sort(others)
    greater = len(ordered) - np.searchsorted(ordered, members, side="right")
    equal = len(ordered) - np.searchsorted(ordered, members, side="left") - greater
    return float((greater + 0.5 * equal).mean() / len(ordered))
