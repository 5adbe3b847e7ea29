import gc
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_requests import prepared

from embedder.linear import PackedProjection, Projection, projection_class
from llm_jobs import FrozenLLM
from llm_jobs.engine.decoding import best_tokens
from llm_jobs.engine.engine import TIE
from llm_jobs.engine.kv_cache import KVCache, Prefix, padded, values_width
from llm_jobs.engine.scheduler import LONGEST_TO_SHORTEST, batches
from llm_jobs.engine.trunk import Trunk
from llm_jobs.frozen_llm import KV_BYTES
from llm_jobs.prompts import Answer, Placement, Request

drawn_tasks = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(1, 9), st.booleans()), min_size=1, max_size=24
)


def requests_of(pair: Any, drawn: list[tuple[int, int, int, bool]]) -> list[Request]:
    """Few different prompts, so that many are equal; soft prompts that all differ."""
    labels = ("arts & culture", "arts", "sports")
    return [
        Request("which " * (1 + text), pair.soft_prompt(size, at) if size else None, labels if closed else None, limit)
        for at, (text, size, limit, closed) in enumerate(drawn)
    ]


@settings(max_examples=15, deadline=None)
@given(drawn=drawn_tasks, placement=st.sampled_from(Placement), seed=st.integers(0, 99), most=st.integers(1, 5))
def test_answers_do_not_depend_on_the_order_of_the_queue_or_the_rows_of_the_cache(
    pair: Any, drawn: Any, placement: Placement, seed: int, most: int
) -> None:
    requests = requests_of(pair, drawn)
    whole = pair.llm.answer(requests, placement)
    order = random.Random(seed).sample(range(len(requests)), len(requests))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_jobs.engine.scheduler.MOST_ROWS", most)
        patch.setattr("llm_jobs.engine.prefill.READ_TOKENS", 7)
        few = pair.llm.answer([requests[at] for at in order], placement)
    for at, answer in zip(order, few, strict=True):
        assert replace(answer, score=0) == replace(whole[at], score=0)
        assert answer.score == pytest.approx(whole[at].score, abs=1e-4)


@pytest.mark.parametrize("choices", [None, ("arts", "sports")])
def test_every_answer_is_told_of_while_others_run(pair: Any, choices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_jobs.engine.scheduler.MOST_ROWS", 2)
    monkeypatch.setattr("llm_jobs.engine.stepwise.MAX_ROWS", 2)
    told: list[int] = []
    requests = [Request(f"which {at}", pair.soft_prompt(2, at), choices, 3) for at in range(7)]
    pair.llm.answer([*requests, Request("")], Placement.AFTER, told.append)
    assert sum(told) == 7, "the empty one was refused before"
    assert max(told) <= 2, "at most two at once"


def slow_pooled(layers: list[torch.Tensor]) -> torch.Tensor:
    """The mean of values (H, tokens, D), token by token, in the layers with a third before and a third behind them."""
    first, tokens = len(layers) // 3, layers[0].shape[1]
    counted = range(1, tokens) if tokens > 1 else range(1)
    return torch.cat(
        [
            torch.stack([head[at] for at in counted]).sum(0) / len(counted)
            for layer in layers[first : len(layers) - first]
            for head in layer
        ]
    )


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_values_are_pooled_over_the_tokens_in_the_middle_third_of_the_layers(
    layers: int, heads: int, tokens: int, width: int
) -> None:
    prefix = Prefix(torch.randn(layers, 2, heads, tokens, width))
    found = prefix.pooled_values
    torch.testing.assert_close(found, slow_pooled([layer[1] for layer in prefix.keys_values]))
    assert found.shape == (values_width(prefix),)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_keys_and_values_are_given_back_with_the_answers(tiny_llm_folder: Path, num_beams: int) -> None:
    llm = FrozenLLM.from_pretrained(str(tiny_llm_folder), num_beams=num_beams)
    requests = [Request("which one", None, choices, 4) for choices in (None, ("a", "b"), None)]
    gc.collect()
    gc.disable()  # which may be long in coming
    try:
        llm.answer(requests, Placement.AFTER)
        assert not [found for found in gc.get_objects() if type(found) is KVCache]
    finally:
        gc.enable()


def test_little_memory_only_means_fewer_rows(tiny_llm_folder: Path, tiny_llm: FrozenLLM) -> None:
    requests = [Request("which " * (1 + at % 4), None, None, 1 + at) for at in range(9)]
    small = FrozenLLM.from_pretrained(str(tiny_llm_folder), memory=1)
    texts = [[answer.text for answer in llm.answer(requests, Placement.AFTER)] for llm in (small, tiny_llm)]
    assert texts[0] == texts[1]


def test_an_equal_prompt_is_read_once(tiny_llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = FrozenLLM.from_pretrained(str(tiny_llm_folder))
    trunk: Trunk = vars(llm)["engine"].trunk
    read: list[int] = []
    plain = trunk.read
    monkeypatch.setattr(trunk, "read", lambda embeds, *rest: read.append(len(embeds)) or plain(embeds, *rest))
    soft = torch.randn(6, 2, llm.width)
    other = Request("an article about sports", None, None, 1)
    llm.answer([*(Request("which " * 20, vectors, None, 1) for vectors in soft), other], Placement.AFTER)
    prompt = llm.parts("which " * 20, Placement.AFTER, 0).before
    assert len(prompt) > 20
    assert sum(read) < 2 * len(prompt) + 6 * 2 + len(llm.parts(other.prompt, Placement.AFTER, 0).before)


@given(st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=80))
def test_a_batch_shares_a_cache_of_which_every_row_uses_its_part(drawn: list[tuple[int, bool]]) -> None:
    requests = [prepared((5,) * length, choices=((1,),) if is_closed else ()) for length, is_closed in drawn]
    found = list(batches(requests))
    assert sum(map(len, found)) == len(requests)
    assert {request for batch in found for request in batch} == set(requests)
    for batch in found:
        assert padded(batch[-1].tokens) * LONGEST_TO_SHORTEST >= padded(batch[0].tokens) >= padded(batch[-1].tokens)
        assert len({bool(request.choices) for request in batch}) == 1


@given(st.integers(1, 40), st.integers(2, 700), st.integers(0, 99))
def test_the_best_token_is_the_first_of_the_most_probable(rows: int, vocabulary: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 9, (rows, vocabulary), generator=generator) / 2
    found = best_tokens(logits.clone())
    assert torch.equal(found.tokens, logits.argmax(1))
    torch.testing.assert_close(found.log_probs, logits.log_softmax(1).amax(1))
    best = logits.topk(2).values
    assert torch.equal(found.is_tie, best[:, 0] - best[:, 1] <= TIE)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_is_seen(number: float) -> None:
    logits = torch.zeros(3, 300)
    logits[1, 299] = number
    assert best_tokens(logits).log_probs.isfinite().tolist() == [True, False, True]


def test_a_tie_is_counted(tiny_llm_folder: Path) -> None:
    llm = FrozenLLM.from_pretrained(str(tiny_llm_folder))
    [answer] = llm.answer([Request("which", None, None, 1)], Placement.AFTER)
    assert isinstance(answer, Answer)
    assert answer.tie_count == 0
    [closed] = llm.answer([Request("which", None, ("arts", "arts"))], Placement.AFTER)
    assert isinstance(closed, Answer)
    assert closed.tie_count == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 5, 64])
def test_packed_products_are_plain_ones(dtype: torch.dtype, rows: int) -> None:
    weight, x, other = (torch.randn(shape).to(dtype) for shape in ((96, 48), (rows, 48), (rows, 96)))
    if projection_class(weight) is not PackedProjection:
        pytest.skip("this torch has no prepacked products for the processor")
    for bias in (None, torch.randn(96).to(dtype)):
        packed, plain = PackedProjection(weight, bias), Projection(weight, bias)
        near = {"rtol": 2e-2, "atol": 5e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(packed(x), plain(x), **near)
        torch.testing.assert_close(packed.silu(x), plain.silu(x), **near)
        torch.testing.assert_close(packed.times(x, other), plain.times(x, other), **near)
        torch.testing.assert_close(packed.plus(x, other), plain.plus(x, other), **near)


def test_keys_and_values_take_a_fixed_amount_unless_told_otherwise(tiny_llm_folder: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        llm = FrozenLLM.from_pretrained(str(tiny_llm_folder), dtype)
        assert llm.kv_memory == (None if "float32" in llm.kernel else KV_BYTES)
