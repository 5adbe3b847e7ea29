"""The sharpest classes of `tests/architectures.py`: how each runs, and that its answers are right."""

from typing import Any

import pytest
from architectures import VARIANTS, tried

OURS, LAYERS, ALIKE = "pplug llama", "transformers", "transformers, prompts of one length"


@pytest.mark.parametrize(
    ("name", "variant", "how"),
    [
        ("llama", "", OURS),
        ("llama", "dynamic", ALIKE),
        ("mistral", "", OURS),
        ("qwen2", "windows", OURS),
        ("qwen3", "windows", LAYERS),
        ("gemma2", "", LAYERS),
        ("gemma3_text", "", LAYERS),
        ("gemma3", "", LAYERS),
        ("phi3", "longrope", ALIKE),
        ("mpt", "", ALIKE),
        ("falcon", "", LAYERS),
        ("falcon", "alibi", ALIKE),
        ("bloom", "", ALIKE),
        ("gpt2", "", LAYERS),
        ("gpt_neox", "", LAYERS),
        ("gpt_neo", "", ALIKE),
        ("opt", "", LAYERS),
        ("gpt_oss", "", LAYERS),
        ("mixtral", "", LAYERS),
        ("t5", "", LAYERS),
        ("bart", "", LAYERS),
        ("marian", "scaled", LAYERS),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of transformers, about tiny configurations
def test_a_class_answers_as_in_transformers(name: str, variant: str, how: str) -> None:
    changes: dict[str, Any] = VARIANTS[name][variant] if variant else {}
    found = tried(name, variant, changes)
    assert (found.result, found.detail) == ("equal", how)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bigbird_pegasus", "reads a long text in another way once it has read a short one"),
        ("roberta", "does not answer here as in transformers: its logits are off by"),
        ("gemma4_text", "does not answer here as in transformers: RuntimeError: It seems like you tried to call"),
    ],
)
def test_a_class_that_would_answer_differently_is_refused(name: str, reason: str) -> None:
    found = tried(name, "", {})
    assert found.result == "refused"
    assert f"{found.model_class} ({name}) {reason}" in found.detail
    assert found.detail.endswith(": choose another LLM")
