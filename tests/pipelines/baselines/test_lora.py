from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.prompts import Placement, Request
from pipelines.baselines.lora import LoraConfig, adapt, batch_loss, most_active
from pipelines.examples import Target

START = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = LoraConfig(epochs=6, batch_size=4, learning_rate=1e-2)


def targets_of(user: str, label: str, count: int) -> list[Target]:
    return [Target(user, f"Which tag? note: {at}", label, "", START + timedelta(days=at)) for at in range(count)]


@given(st.lists(st.sampled_from("abcd")), st.sets(st.sampled_from("abcde")), st.integers(0, 4))
def test_the_most_active_are_those_with_most_items_among_those_with_tasks(
    items: list[str], with_tasks: set[str], count: int
) -> None:
    targets = [target for user in items for target in targets_of(user, "red", 1)]
    found = most_active(targets, sorted(with_tasks), count)
    wanted = sorted((-items.count(user), user) for user in with_tasks if user in items)[:count]
    assert found == [user for _, user in wanted]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft 0.21 uses the old name
def test_an_adapter_learns_its_user_and_leaves_the_llm_as_it_was(llm_folder: Path) -> None:
    llm = FrozenLLM.from_pretrained(str(llm_folder), num_beams=2)
    weights = {name: value.clone() for name, value in llm.model.state_dict().items()}
    request = Request("Which tag? note: 3", None, ("red", "blue"), 4)
    for label in ("red", "blue"):
        targets = targets_of("ann", label, 8)
        first, second = (adapt(llm, llm_folder, targets, CONFIG) for _ in range(2))
        # two layers; q is 32 to 32, v is 32 to 16; rank 8
        assert first.parameters == 2 * (8 * (32 + 32) + 8 * (32 + 16))
        assert first.llm.num_beams == llm.num_beams
        (answer,) = first.llm.answer([request], Placement.AFTER)
        assert answer == second.llm.answer([request], Placement.AFTER)[0]
        assert getattr(answer, "text", None) == label
        with torch.no_grad():
            before, after = (batch_loss(one.model, llm, targets) for one in (llm, first.llm))
        assert after < before
    assert all(torch.equal(value, weights[name]) for name, value in llm.model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft 0.21 uses the old name
def test_an_item_too_long_for_the_llm_is_no_example_of_an_adapter(
    llm_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    llm, once = FrozenLLM.from_pretrained(str(llm_folder)), replace(CONFIG, epochs=1)
    targets = targets_of("ann", "red", 4)
    novel = replace(targets[0], target="endless " * 2000)
    alone, both = (adapt(llm, llm_folder, chosen, once).llm for chosen in (targets, [*targets, novel]))
    assert same_state(alone, both)
    assert "1 of 5 items are too long for the LLM" in caplog.text


def same_state(one: FrozenLLM, other: FrozenLLM) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_the_loss_is_that_of_the_answers_tokens(llm_folder: Path) -> None:
    llm = FrozenLLM.from_pretrained(str(llm_folder))
    targets = [*targets_of("ann", "red", 2), *targets_of("ann", "a longer answer", 1)]
    total, count = 0.0, 0
    for target in targets:
        answer = llm.answer_ids(target.target)
        part = llm.parts(target.prompt, Placement.AFTER, len(answer))
        ids = torch.tensor([[*part.before, *part.after, *answer]])
        with torch.no_grad():
            log_probs = llm.model(ids).logits[0].log_softmax(-1)
        for at, token in enumerate(answer, start=ids.shape[1] - len(answer)):
            total, count = total - float(log_probs[at - 1, token]), count + 1
    with torch.no_grad():
        assert float(batch_loss(llm.model, llm, targets)) == pytest.approx(total / count, rel=1e-4)
