"""What answering takes and gives: a frozen LLM, tasks with what is known of their users, and answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from embedder.compact import FloatArray
from embedder.histories import History
from llm_jobs.prompts import Answer, Placement, PromptParts, Refusal, Request


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

    def pooled_values(self, befores: Sequence[tuple[int, ...]]) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class PersonalTask:
    """A task with what its plug needs to know of the user."""

    prompt: str
    task: FloatArray
    """(D,) encoded task input."""
    history: History
    choices: tuple[str, ...] | None
    max_new_tokens: int
    names: FloatArray | None = None
    """(C, D) encoded names of the choices."""
    values: FloatArray | None = None
    """(V,) the LLM's pooled values of the prompt, where they are known already."""
    is_scale: bool = False
    """The choices are ratings, of which the nearer one is the better answer."""


@dataclass(frozen=True, eq=False)
class Answered:
    """What the LLM said, and how much the plug looked at each of the user's vectors."""

    answer: Answer
    weights: FloatArray
    """(n,) they sum to one, or to zero for a user without a history."""
