"""Answer tasks for their users: a plug turns history and task into an answer, or into what the frozen LLM reads.

PersonalTask ─┬─▶ plug ─▶ soft prompt, or turns ─▶ frozen LLM ─┬─▶ Answer    (text, score, what the plug looked at)
              └─▶ plug with labels (closed.py) ────────────────┴─▶ Refusal   (reason)
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from embedder.compact import FloatArray
from embedder.encoder import Tell
from embedder.histories import pad_histories
from embedder.plug import PersonaPlug
from llm_jobs.closed import point_at_choices
from llm_jobs.engine.engine import untold
from llm_jobs.prompts import Answer, Placement, Refusal, Request
from llm_jobs.tasks import AnsweringLLM, PersonalTask
from llm_jobs.turns import with_turns

PLUG_BATCH = 128  # tasks that go through the plug at once: 128 users with 64 vectors of 384 floats are 12 MB


def answer_tasks(
    llm: AnsweringLLM, plug: PersonaPlug, tasks: Sequence[PersonalTask], tell: Tell = untold
) -> list[Answer | Refusal]:
    """Answer every task or say why not, in the order of `tasks`; `tell` hears how many more are done.

    Raises:
        PplugError: if the plug was not trained through `llm`.
    """
    if plug.config.labels:
        return point_at_choices(llm, plug, tasks, tell)
    requests, weights = personal_requests(llm, plug, tasks)
    answers = llm.answer(requests, Placement(plug.config.placement), tell)
    return [
        answer if isinstance(answer, Refusal) else replace(answer, weights=weight)
        for answer, weight in zip(answers, weights, strict=True)
    ]


def personal_requests(
    llm: AnsweringLLM, plug: PersonaPlug, tasks: Sequence[PersonalTask]
) -> tuple[list[Request], list[FloatArray]]:
    """Turn each task into a request with its user's soft prompt or turns; also the weights over the user's vectors."""
    if plug.config.turns:
        found = [with_turns(llm, task, _request(task, None), plug.config.turns) for task in tasks]
        return [request for request, _ in found], [weights for _, weights in found]
    return soft_requests(plug, tasks)


@torch.no_grad()
def soft_requests(plug: PersonaPlug, tasks: Sequence[PersonalTask]) -> tuple[list[Request], list[FloatArray]]:
    """The same of a plug that makes soft prompts."""
    plug.eval()
    requests: list[Request] = []
    weights: list[FloatArray] = []
    for start in range(0, len(tasks), PLUG_BATCH):
        batch = tasks[start : start + PLUG_BATCH]
        queries = torch.from_numpy(np.stack([task.task for task in batch]))
        padded = pad_histories([task.history for task in batch], plug.config.encoder_width)
        soft, weighed = plug(queries, *padded)
        for row, task in enumerate(batch):
            requests.append(_request(task, soft[row]))
            weights.append(weighed[row, : len(task.history.vectors)].numpy())
    return requests, weights


def plain_requests(tasks: Sequence[PersonalTask]) -> list[Request]:
    """Turn each task into a request without a plug."""
    return [_request(task, None) for task in tasks]


def _request(task: PersonalTask, soft: Tensor | None) -> Request:
    return Request(task.prompt, soft, task.choices, task.max_new_tokens, task.stop, task.no_repeat)
