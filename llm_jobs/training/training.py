"""What the stages of a training share: the plug, the LLM, the examples, and how it is trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from embedder.compact import FloatArray
from embedder.plug import PersonaPlug
from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.training.data import Tokenised, TrainConfig
from llm_jobs.training.prefix_cache import PREFIXES_AT_ONCE, Progress


@dataclass(frozen=True, eq=False)
class Training:
    """A training run, as its stages see it."""

    plug: PersonaPlug
    """Fitted in place."""
    llm: FrozenLLM
    config: TrainConfig
    folder: Path
    """Where the plug goes; a stage may keep checkpoints there until the plug is saved."""
    progress: Progress
    train: Sequence[Tokenised]
    held_out: Sequence[Tokenised]
    """Examples of users who are in no example of `train`; there may be none."""
    names: FloatArray | None = None
    """(L, D) encoded names of the plug's labels, where it has any."""


def kind_names(plug: PersonaPlug) -> str:
    """The kinds of a plug, as messages name them."""
    return ", ".join(plug.config.kinds)


def with_values(llm: FrozenLLM, prepared: Sequence[Tokenised], progress: Progress) -> list[Tokenised]:
    """The examples with the LLM's pooled values of their prompts; those that all have them already are left alone."""
    if all(item.values is not None for item in prepared):
        return list(prepared)
    found: list[Tokenised] = []
    for start in range(0, len(prepared), PREFIXES_AT_ONCE):
        chunk = prepared[start : start + PREFIXES_AT_ONCE]
        values = llm.pooled_values([item.parts.before for item in chunk]).numpy()
        found += [replace(item, values=own) for item, own in zip(chunk, values, strict=True)]
        progress("values of prompts", len(found), len(prepared))
    return found
