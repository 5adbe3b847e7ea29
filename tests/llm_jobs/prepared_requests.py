"""Requests in token ids, made without an LLM."""

from collections.abc import Sequence

import torch

from llm_jobs.engine.engine import Prepared
from llm_jobs.prompts import Ids, PromptParts, Request


def prepared(
    before: Sequence[int],
    after: Sequence[int] = (),
    soft: torch.Tensor | None = None,
    choices: tuple[Ids, ...] = (),
    limit: int = 32,
) -> Prepared:
    """A request of these tokens, without a soft prompt unless given."""
    parts = PromptParts(tuple(before), tuple(after))
    texts = tuple(map(str, choices)) or None
    soft = torch.empty(0, 1) if soft is None else soft
    return Prepared(Request("a prompt", soft, texts, limit), parts, soft, choices)
