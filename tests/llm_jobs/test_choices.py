from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jobs.engine.choices import choice_tree
from llm_jobs.prompts import Answer, Placement, Refusal, Request

END = 9
closed = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(lambda ids: (*ids, END))
choice_lists = st.lists(closed, min_size=1, max_size=6).map(tuple)
labels = st.text(st.characters(codec="utf8"), min_size=1, max_size=12)


@given(choice_lists)
def test_a_score_is_the_mean_over_the_tokens_of_the_choice(choices: tuple[tuple[int, ...], ...]) -> None:
    tree = choice_tree(choices)
    logs = torch.randn(1 + len(tree.tokens), END + 1)  # what the LLM says after the root and after each node
    scores = tree.scores(logs[tree.edge_rows, tree.edge_tokens][None])[0]
    rows = {(): 0} | {beginning: row + 1 for row, beginning in enumerate(beginnings(tree))}
    for choice, score in zip(choices, scores, strict=True):
        slow = sum(logs[rows[choice[:at]], token] for at, token in enumerate(choice)) / len(choice)
        torch.testing.assert_close(score, slow)


@given(choice_lists)
def test_every_beginning_is_read_once_and_sees_its_own_tokens_only(choices: tuple[tuple[int, ...], ...]) -> None:
    tree = choice_tree(choices)
    expected = {choice[:end] for choice in choices for end in range(1, len(choice))}
    assert len(tree.tokens) == len(expected)
    assert set(beginnings(tree)) == expected
    assert [len(beginning) - 1 for beginning in beginnings(tree)] == tree.depths.tolist()


def beginnings(tree: Any) -> list[tuple[int, ...]]:
    """The tokens each node sees, by depth: its beginning of a choice."""
    found: list[tuple[int, ...]] = []
    for row in tree.sees:
        nodes = sorted(row.nonzero().flatten().tolist(), key=lambda node: int(tree.depths[node]))
        found.append(tuple(tree.tokens[node] for node in nodes))
    return found


@settings(max_examples=20, deadline=None)
@given(
    prompts=st.lists(st.tuples(labels, st.integers(0, 3), st.lists(labels, min_size=1, max_size=5)), max_size=4),
    placement=st.sampled_from(Placement),
)
def test_choices_are_scored_as_one_full_forward_pass_each_would(pair: Any, prompts: Any, placement: Placement) -> None:
    requests = [
        Request(f"which {text}", pair.soft_prompt(size, seed), tuple(choices))
        for seed, (text, size, choices) in enumerate(prompts)
    ]
    for request, found in zip(requests, pair.llm.answer(requests, placement), strict=True):
        assert isinstance(found, Answer)
        assert request.soft_prompt is not None
        assert request.choices is not None
        parts = pair.llm.parts(request.prompt, placement, 24)
        slow = [
            pair.token_log_probs(parts, request.soft_prompt, pair.llm.answer_ids(choice)).mean().item()
            for choice in request.choices
        ]
        assert found.score == pytest.approx(max(slow), abs=1e-4)
        assert slow[request.choices.index(found.text)] == pytest.approx(max(slow), abs=1e-4)
        assert found.finish_reason == "choice"
        assert found.output_tokens == len(pair.llm.answer_ids(found.text))


def test_a_choice_that_begins_another_can_win(pair: Any) -> None:
    requests = [Request(f"article {at}", pair.soft_prompt(2, at), ("arts", "arts & culture")) for at in range(12)]
    answers = pair.llm.answer(requests, Placement.AFTER)
    assert {answer.text for answer in answers} <= {"arts", "arts & culture"}


@pytest.mark.parametrize("choices", [(), ("",), ("politics", "")])
def test_a_choice_without_tokens_is_refused(pair: Any, choices: tuple[str, ...]) -> None:
    refused, answered = pair.llm.answer([Request("x", None, choices), Request("x", None, ("a",))], Placement.AFTER)
    assert isinstance(refused, Refusal)
    assert refused.reason == "empty_choice"
    assert answered.text == "a"
