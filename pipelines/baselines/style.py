"""Steer the frozen LLM towards a user's style without training, after StyleVector (arXiv 2503.05213).

    a user's items ─▶ prompts ─┬─▶ with what the user wrote ──────┐ hidden states of the last token
                               └─▶ with what the LLM itself says ─┴─▶ mean difference: the style vector
    task's prompt ─▶ the LLM, the style vector added after one of its layers ─▶ answer

Their layer and strength are chosen for each LLM; here they are the middle layer and 1. Free answers only.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Final

import torch
from torch import Tensor

from embedder.errors import UsageError
from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.kinds import Kind
from llm_jobs.prompts import Answer, Placement, PromptRefused, Request
from pipelines.baselines.cases import Case

NEWEST: Final = 8
"""Items that a style is taken from; each costs an answer and two readings."""


def steered_answers(llm: FrozenLLM, kind: Kind, strength: float = 1.0) -> Callable[[Sequence[Case]], list[str]]:
    """Answers cases one by one, each with its user's style vector times `strength`; "" where the LLM takes no prompt.

    Raises:
        UsageError: if the LLM is no stack of layers.
    """
    decoder: Any = getattr(llm.model, "get_decoder", lambda: None)()
    layers = getattr(decoder, "layers", None)
    if llm.is_encoder_decoder or layers is None:
        raise UsageError("style_vector needs an LLM that is one stack of layers: leave it out with --methods")
    at = len(layers) // 2

    def answers(cases: Sequence[Case]) -> list[str]:
        found: list[str] = []
        for _, of_user in groupby(cases, key=lambda case: case.task.user_id):
            own = list(of_user)
            with steered(layers[at], strength * style_vector(llm, kind, own[0], at)):
                found += [answer(llm, case) for case in own]
        return found

    return answers


@torch.no_grad()
def style_vector(llm: FrozenLLM, kind: Kind, case: Case, at: int) -> Tensor:
    """(E,) what sets the user's texts apart from the LLM's own after layer `at`; 0 for a user without any."""
    written = [item for item in case.items if item.output][-NEWEST:]
    prompts = [kind.training_prompt(item.text) for item in written]
    neutral = llm.answer(
        [Request(prompt, None, None, case.personal.max_new_tokens) for prompt in prompts], Placement.AFTER
    )
    differences = [
        last_state(llm, prompt, item.output or "", at) - last_state(llm, prompt, said.text, at)
        for prompt, item, said in zip(prompts, written, neutral, strict=True)
        if isinstance(said, Answer)
    ]
    return torch.stack(differences).mean(0) if differences else torch.zeros(llm.width)


def last_state(llm: FrozenLLM, prompt: str, text: str, at: int) -> Tensor:
    """(E,) the hidden state after layer `at` of a text's last token."""
    ids = llm.format.token_ids(text)
    parts = llm.parts(prompt, Placement.AFTER, len(ids))
    model: Any = llm.model
    read = model(torch.tensor([[*parts.before, *parts.after, *ids]], device=model.device), output_hidden_states=True)
    return read.hidden_states[at + 1][0, -1]


@contextmanager
def steered(layer: Any, vector: Tensor) -> Generator[None]:
    """Add a vector (E,) to what a layer makes of each newest token; what was read before stays as it is."""

    def add(_: object, __: object, made: Any) -> Any:
        states = made[0] if isinstance(made, tuple) else made  # (B, Q, E)
        states[:, -1] += vector.to(states)
        return made

    hook = layer.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def answer(llm: FrozenLLM, case: Case) -> str:
    """The greedy answer to a task; "" if the LLM takes no such prompt."""
    try:
        parts = llm.parts(case.personal.prompt, Placement.AFTER, case.personal.max_new_tokens)
    except PromptRefused:
        return ""
    model: Any = llm.model
    ids = torch.tensor([[*parts.before, *parts.after]], device=model.device)
    settings = {"max_new_tokens": case.personal.max_new_tokens, "do_sample": False, "num_beams": 1}
    made = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=llm.answer_ids("")[-1], **settings)
    return str(llm.format.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)).strip()
