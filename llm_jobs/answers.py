"""Answer tasks for their users: history vectors and the task's own vector through a plug into the frozen LLM.

PersonalTask ─▶ plug ─▶ soft prompt ─▶ frozen LLM ─▶ Answered   (text, score, what the plug looked at)
└──────▶ Refusal    (reason)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedder.histories import History, pad_histories
from embedder.plug import PersonaPlug
from llm_jobs.prompts import Answer, LateSoftPrompt, Placement, PromptParts, Refusal, Request, SoftPrompt

FloatArray = NDArray[np.float32]

PLUG_BATCH = 128
"""Tasks that go through the plug at once: 128 users with 64 vectors of 384 floats are 12 MB."""


class AnsweringLLM(Protocol):
    """A frozen LLM as job 2 needs it: FrozenLLM or VllmLLM."""

    sha256: str
    kernel: str
    num_beams: int
    context_length: int
    """Most tokens of prompt and answer together."""
    values_width: int
    """V, the length of the pooled values of a prompt; 0 where soft prompts cannot depend on them."""

    @property
    def kv_memory(self) -> int | None:
        """Bytes for keys and values; None where answers do not depend on them, or the engine decides."""
        ...

    def answer(self, requests: Sequence[Request], placement: Placement) -> list[Answer | Refusal]: ...

    def parts(self, prompt: str, placement: Placement, reserve: int) -> PromptParts: ...

    def answer_ids(self, text: str) -> tuple[int, ...]: ...


@dataclass(frozen=True, eq=False)
class PersonalTask:
    """A task with what its plug needs to know of the user."""

    prompt: str
    task: FloatArray
    """(D,) encoded task input."""
    history: History
    choices: tuple[str, ...] | None
    max_new_tokens: int


@dataclass(frozen=True, eq=False)
class Answered:
    """What the LLM said, and how much the plug looked at each of the user's vectors."""

    answer: Answer
    weights: FloatArray
    """(n,) they sum to one, or to zero for a user without a history."""


def answer_tasks(llm: AnsweringLLM, plug: PersonaPlug, tasks: Sequence[PersonalTask]) -> list[Answered | Refusal]:
    """Answer every task or say why not, in the order of `tasks`.

    Raises:
        PplugError: if the plug was not trained through `llm`.
    """
    requests, weights = personal_requests(plug, tasks)
    answers = llm.answer(requests, Placement(plug.config.placement))
    return [
        answer if isinstance(answer, Refusal) else Answered(answer, weight)
        for answer, weight in zip(answers, weights, strict=True)
    ]


@torch.no_grad()
def personal_requests(plug: PersonaPlug, tasks: Sequence[PersonalTask]) -> tuple[list[Request], list[FloatArray]]:
    """Each task as a request with its user's soft prompt, and the weights over that user's vectors."""
    plug.eval()
    requests: list[Request] = []
    weights: list[FloatArray] = []
    for start in range(0, len(tasks), PLUG_BATCH):
        batch = tasks[start : start + PLUG_BATCH]
        queries = torch.from_numpy(np.stack([task.task for task in batch]))
        padded = pad_histories([task.history for task in batch], plug.config.encoder_width)
        soft, weighed = soft_prompts(plug, queries, *padded)
        for row, task in enumerate(batch):
            requests.append(Request(task.prompt, soft[row], task.choices, task.max_new_tokens))
            weights.append(weighed[row, : len(task.history.vectors)].numpy())
    return requests, weights


def soft_prompts(plug: PersonaPlug, *inputs: Tensor) -> tuple[Sequence[SoftPrompt], Tensor]:
    """A soft prompt for each of B users, late ones where the plug sees the LLM's values, and the weights (B, H).

    Args:
        plug: ready to answer.
        inputs: what it takes but for the values.
    """
    width = plug.config.values_width
    if not width:
        return plug(*inputs)

    def late(row: int) -> LateSoftPrompt:
        own = [part[row : row + 1] for part in inputs]
        return LateSoftPrompt(plug.config.soft_count, lambda values: plug(*own, values[None])[0][0])

    _, weights = plug(*inputs, torch.zeros(len(inputs[0]), width))  # weights do not depend on them
    return [late(row) for row in range(len(weights))], weights


def plain_requests(tasks: Sequence[PersonalTask]) -> list[Request]:
    """The same tasks with no plug at all."""
    return [Request(task.prompt, None, task.choices, task.max_new_tokens) for task in tasks]
