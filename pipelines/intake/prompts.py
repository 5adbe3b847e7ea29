"""Write the prompts of tasks that bring a text alone, in the words of their kind."""

from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from llm_jobs.kinds import Kind
from pipelines.intake.found import Read, is_blank


def with_prompts(reads: Mapping[str, Read], texts: pa.Array, kinds: Container[str]) -> dict[str, Read]:
    """Give tasks without `input` the prompt that their kind makes of `text`, and its choices if they bring none.

    Args:
        reads: columns `kind`, `input` and `choices` of the tasks.
        texts: their texts.
        kinds: the kinds there are. One without a prompt of its own leaves its tasks without input.
    """
    missing = reads["input"].problems["missing"]
    wanted = missing & ~is_blank(texts) & np.asarray(texts.is_valid(), bool)
    if not wanted.any() or not isinstance(kinds, Mapping):
        return {}
    inputs, choices = reads["input"].values.to_pylist(), reads["choices"].values.to_pylist()
    names, given, still = reads["kind"].values.to_pylist(), texts.to_pylist(), missing.copy()
    for at in np.flatnonzero(wanted).tolist():
        kind: Any = kinds.get(names[at])
        if isinstance(kind, Kind) and kind.prompt is not None:
            choices[at] = choices[at] or (list(kind.choices) if kind.choices else None)
            inputs[at] = kind.training_prompt(given[at], choices[at])
            still[at] = False
    return {
        "input": Read(pa.array(inputs, pa.string()), reads["input"].problems | {"missing": still}),
        "choices": Read(pa.array(choices, reads["choices"].values.type), reads["choices"].problems),
    }
