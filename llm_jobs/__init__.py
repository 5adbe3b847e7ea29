"""The frozen LLM and what is asked of it: prompts, kinds of tasks, answers, metrics; its engine; training a plug."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_jobs.frozen_llm import FrozenLLM

__all__ = ["FrozenLLM"]


def __getattr__(name: str) -> object:
    """Import torch and transformers when FrozenLLM is first asked for, not before."""
    if name == "FrozenLLM":
        from llm_jobs.frozen_llm import FrozenLLM

        return FrozenLLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
