import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder.errors import UsageError
from llm_jobs import FrozenLLM
from llm_jobs.engine.beams import in_place, likely_tokens
from llm_jobs.engine.kv_cache import KVCache, row_bytes
from llm_jobs.engine.trunk import Trunk
from llm_jobs.prompts import Answer, Placement, Refusal, Request

BeamPair = Callable[[int], Any]

placements = st.sampled_from(Placement)
widths = st.integers(2, 5)
drawn_requests = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 14), st.booleans()), min_size=1, max_size=9
)


@pytest.fixture(scope="module", params=["many ends", "few ends"])
def beam_pair(request: pytest.FixtureRequest, pair: Any, tmp_path_factory: pytest.TempPathFactory) -> BeamPair:
    """`pair` with beams; one token in three ends an answer, or one in a hundred, so that most answers are cut."""
    folder = tmp_path_factory.mktemp("beams") / "model"
    shutil.copytree(pair.reference.name_or_path, folder)
    if request.param == "few ends":
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf8")) | {"eos_token_id": [2, 50, 250]}), "utf8")
    reference = type(pair.reference).from_pretrained(folder).eval().requires_grad_(False)
    return cache(
        lambda width: replace(pair, llm=FrozenLLM.from_pretrained(str(folder), num_beams=width), reference=reference)
    )


def requests_of(pair: Any, drawn: list[tuple[int, int, int, bool]]) -> list[Request]:
    """Prompts of mixed lengths, some of them equal; soft prompts that all differ; some closed."""
    labels = ("arts & culture", "arts", "sports")
    return [
        Request("which " * (1 + text), pair.soft_prompt(size, at) if size else None, labels if closed else None, limit)
        for at, (text, size, limit, closed) in enumerate(drawn)
    ]


def assert_same(answer: Answer, other: Answer) -> None:
    """Equal but for rounding, and for what rounding decides."""
    assert other.tie_count or replace(answer, score=0.0, tie_count=0) == replace(other, score=0.0, tie_count=0)
    assert answer.score == pytest.approx(other.score, abs=1e-4)


@settings(max_examples=10, deadline=None)
@given(drawn=drawn_requests, placement=placements, width=widths)
def test_answers_equal_those_of_transformers(beam_pair: BeamPair, drawn: Any, placement: Placement, width: int) -> None:
    pair = beam_pair(width)
    requests = [replace(request, choices=None) for request in requests_of(pair, drawn)]
    for request, answer in zip(requests, pair.llm.answer(requests, placement), strict=True):
        soft = torch.empty(0, pair.llm.width) if request.soft_prompt is None else request.soft_prompt
        parts = pair.llm.parts(request.prompt, placement, len(soft) + request.max_new_tokens)
        ids = tuple(pair.generated_ids(parts, soft, request.max_new_tokens, width))
        has_ended = ids[-1] in pair.reference.generation_config.eos_token_id
        expected = Answer(
            text=pair.llm.format.tokenizer.decode(ids, skip_special_tokens=True).strip(),
            score=pair.token_log_probs(parts, soft, ids).mean().item(),
            finish_reason="eos" if has_ended else "length",
            prompt_tokens=len(parts.before) + len(soft) + len(parts.after),
            output_tokens=len(ids),
        )
        assert_same(expected, answer)


@settings(max_examples=10, deadline=None)
@given(drawn=drawn_requests, placement=placements, width=widths, seed=st.integers(0, 99), most=st.integers(1, 12))
def test_answers_do_not_depend_on_the_rest_of_the_queue(
    beam_pair: BeamPair, drawn: Any, placement: Placement, width: int, seed: int, most: int
) -> None:
    pair = beam_pair(width)
    requests = requests_of(pair, drawn)
    alone = [answer for request in requests for answer in pair.llm.answer([request], placement)]
    order = random.Random(seed).sample(range(len(requests)), len(requests))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_jobs.engine.scheduler.MOST_ROWS", most)
        patch.setattr("llm_jobs.engine.stepwise.MAX_ROWS", most)
        patch.setattr("llm_jobs.engine.prefill.READ_TOKENS", 7)
        together = pair.llm.answer([requests[at] for at in order], placement)
    for at, answer in zip(order, together, strict=True):
        assert_same(answer, alone[at])


def test_closed_answers_need_no_beams(beam_pair: BeamPair) -> None:
    pair = beam_pair(3)
    requests = [Request(f"article {at}", pair.soft_prompt(2, at), ("arts", "arts & culture", "a")) for at in range(6)]
    assert pair.llm.answer(requests, Placement.AFTER) == beam_pair(1).llm.answer(requests, Placement.AFTER)


def test_beams_find_more_probable_answers_than_greedy_decoding(beam_pair: BeamPair) -> None:
    greedy, beams = beam_pair(1), beam_pair(4)
    requests = [Request("which category", greedy.soft_prompt(2, at), None, 1) for at in range(8)]
    for answer, other in zip(*(pair.llm.answer(requests, Placement.AFTER) for pair in (greedy, beams)), strict=True):
        assert_same(answer, other)  # of one token both take the best
    longer = [replace(request, max_new_tokens=12) for request in requests]
    scores = [[answer.score for answer in pair.llm.answer(longer, Placement.AFTER)] for pair in (greedy, beams)]
    assert sum(scores[1]) > sum(scores[0])


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_only_the_request_with_broken_numbers_is_refused(
    beam_pair: BeamPair, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, soft_prompt = beam_pair(3).llm, beam_pair(3).soft_prompt
    good = [Request(f"which {at}", soft_prompt(2, at), None, 9) for at in range(4)]
    bad = Request("which category of news", torch.full((2, llm.width), number), None, 9)
    expected = llm.answer(good, Placement.AFTER)
    monkeypatch.setattr("llm_jobs.engine.scheduler.MOST_ROWS", 3)  # all go through the same rows
    found = llm.answer([*good[:2], bad, *good[2:]], Placement.AFTER)
    assert isinstance(found[2], Refusal)
    assert found[2].reason == "non_finite_logits"
    for answer, other in zip(found[:2] + found[3:], expected, strict=True):
        assert_same(answer, other)


def test_the_rows_of_all_beams_fit_the_memory(tiny_llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [Request("which " * (1 + at % 4), None, None, 1 + at) for at in range(9)]
    most = 10 * row_bytes(FrozenLLM.from_pretrained(str(tiny_llm_folder)).prefixes([()])[0], 64)
    made: list[KVCache] = []
    plain = KVCache.empty
    monkeypatch.setattr(KVCache, "empty", lambda *of: made.append(plain(*of)) or made[-1])
    texts: list[list[str]] = []
    for memory in (most, 1):
        llm = FrozenLLM.from_pretrained(str(tiny_llm_folder), memory=memory, num_beams=4)
        made.clear()
        texts.append([answer.text for answer in llm.generate([request.prompt for request in requests])])
        rows = {cache.store.shape[2] for cache in made if cache.store.shape[2] > 1}
        assert rows == ({8} if memory == most else {4})
    assert texts[0] == texts[1]


def test_a_prompt_is_read_once_for_all_its_beams(tiny_llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[int, list[int]] = {1: [], 4: []}
    for width, counts in read.items():
        llm = FrozenLLM.from_pretrained(str(tiny_llm_folder), num_beams=width)
        trunk: Trunk = vars(llm)["engine"].trunk
        plain = trunk.read
        monkeypatch.setattr(
            trunk,
            "read",
            lambda embeds, *rest, plain=plain, counts=counts: counts.append(len(embeds)) or plain(embeds, *rest),
        )
        llm.generate(["which " * 9, "which " * 9, "arts"], [torch.randn(2, llm.width) for _ in "abc"], max_new_tokens=1)
    assert read[1] == read[4]


def test_at_least_one_beam_is_needed(tiny_llm_folder: Path) -> None:
    with pytest.raises(UsageError, match="num_beams must be at least 1, not 0"):
        FrozenLLM.from_pretrained(str(tiny_llm_folder), num_beams=0)


def test_the_packaged_model_decodes_with_beams_as_transformers_does() -> None:
    pytest.importorskip("gguf")
    llm = FrozenLLM.from_pretrained("smollm2", num_beams=4)
    prompts = ["Write a headline: it rained all day.", "Name a colour."]
    for prompt, answer in zip(prompts, llm.generate(prompts, max_new_tokens=6), strict=True):
        parts = llm.parts(prompt, Placement.BEFORE, 6)
        ids = torch.tensor([parts.before + parts.after])
        model: Any = llm.model
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, num_beams=4, do_sample=False)
        assert answer.text == llm.format.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True).strip()


@given(st.integers(1, 40), st.integers(2, 700), st.integers(1, 9), st.integers(0, 99))
def test_likely_tokens_are_the_most_probable(rows: int, vocabulary: int, count: int, seed: int) -> None:
    logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))
    tokens, log_probs = likely_tokens(logits, count)
    expected = logits.log_softmax(1).topk(min(count, vocabulary))
    assert torch.equal(tokens, expected.indices)
    torch.testing.assert_close(log_probs, expected.values)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_is_seen(number: float) -> None:
    logits = torch.zeros(3, 300)
    logits[1, 299] = number
    assert likely_tokens(logits, 4)[1].isfinite().all(1).tolist() == [True, False, True]


@given(
    st.integers(1, 6).flatmap(lambda k: st.lists(st.lists(st.integers(0, k - 1), min_size=k, max_size=k), min_size=1))
)
def test_a_child_of_every_parent_stays_in_its_row(drawn: list[list[int]]) -> None:
    parents = torch.tensor(drawn)
    order = in_place(parents)
    assert torch.equal(order.sort(1).values, torch.arange(parents.shape[1]).expand_as(parents))
    for row, placed in zip(drawn, parents.gather(1, order).tolist(), strict=True):
        assert sorted(row) == sorted(placed)
        assert all(placed[parent] == parent for parent in row)
