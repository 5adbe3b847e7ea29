from dataclasses import replace
from pathlib import Path

import torch
from method_cases import case, item

from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.kinds import Kind, Metric
from llm_jobs.prompts import Answer, Placement
from pipelines.baselines.methods import without_persona
from pipelines.baselines.style import steered_answers, style_vector

KIND = Kind(name="note", metric=Metric.ROUGE, prompt="Name this note: {text}")


def test_without_a_style_the_answers_are_the_llms_own_and_with_one_they_lean_to_the_users(llm_folder: Path) -> None:
    llm = FrozenLLM.from_pretrained(str(llm_folder))
    items = [item(at, f"apples {at}", "red red red") for at in range(3)]
    nobody, ann = case([], choices=None), case(items, choices=None)
    own = [found.text for found in llm.answer(without_persona([nobody]), Placement.AFTER) if isinstance(found, Answer)]
    assert steered_answers(llm, KIND)([nobody]) == own
    vector = style_vector(llm, KIND, ann, 1)
    assert vector.shape == (llm.width,)
    assert vector.abs().max() > 0
    said = replace(ann, items=[one._replace(output=None) for one in items])
    assert torch.equal(style_vector(llm, KIND, said, 1), torch.zeros(llm.width))
    assert steered_answers(llm, KIND, 50.0)([ann]) != own
    assert steered_answers(llm, KIND)([nobody]) == own  # no hook is left behind
