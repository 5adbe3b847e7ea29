"""Texts that end an answer, and the rule against repetitions, against `transformers`' own."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jobs import FrozenLLM
from llm_jobs.engine.engine import Prepared
from llm_jobs.prompts import Answer, Placement, Request, before_stop

PROMPTS = ["which category", "politics and sports", "an article about rain", "你好", "arts & culture"]
LIMIT = 12


def request_of(pair: Any, at: int, **rules: Any) -> Request:
    return Request(PROMPTS[at], pair.soft_prompt(2, at), None, LIMIT, **rules)


def said_by_transformers(pair: Any, request: Request, **rules: Any) -> str:
    """What `transformers` generates for the request alone."""
    parts = pair.llm.parts(request.prompt, Placement.AFTER, LIMIT + 2)
    embeds = pair.embeds(parts, request.soft_prompt)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    more = {"max_new_tokens": LIMIT, "do_sample": False, "tokenizer": pair.llm.format.tokenizer}
    ids = pair.reference.generate(inputs_embeds=embeds, attention_mask=mask, **more, **rules)[0]
    return pair.llm.format.tokenizer.decode(ids, skip_special_tokens=True)


def unrepeated(pair: Any, request: Request, count: int) -> list[int]:
    """Token ids chosen one by one from full forward passes, none completing `count` in a row that were there before."""
    parts = pair.llm.parts(request.prompt, Placement.AFTER, LIMIT + 2)
    ids: list[int] = []
    while len(ids) < LIMIT and not set(ids) & set(pair.llm.reader.end_ids):
        runs = {tuple(ids[at : at + count]) for at in range(len(ids) - count + 1)}
        order = pair.logits(parts, request.soft_prompt, tuple(ids))[-1].argsort(descending=True).tolist()
        ids.append(next(token for token in order if (*ids, token)[-count:] not in runs))
    return ids


@settings(max_examples=8, deadline=None)
@given(at=st.integers(0, 4), start=st.integers(0, 20), length=st.integers(1, 3))
def test_an_answer_ends_before_a_stop_text_as_in_transformers(pair: Any, at: int, start: int, length: int) -> None:
    text = said_by_transformers(pair, request_of(pair, at))
    stop = text[start : start + length].replace("\N{REPLACEMENT CHARACTER}", "") or "which"
    said = said_by_transformers(pair, request_of(pair, at), stop_strings=[stop])
    requests = [request_of(pair, at), request_of(pair, at, stop=(stop,))]
    without, answer = pair.llm.answer(requests, Placement.AFTER)
    assert answer.text == before_stop(said, [stop]).strip()
    assert answer.output_tokens <= without.output_tokens
    assert answer.finish_reason == ("eos" if stop in text else without.finish_reason)


def test_requests_that_end_differently_are_answered_as_if_alone(pair: Any) -> None:
    stops: list[tuple[str, ...]] = [(), ("a",), ("e", "s", "Q"), ("\n",)]
    requests = [request_of(pair, at, stop=stop) for at in range(len(PROMPTS)) for stop in stops]
    alone = [pair.llm.answer([request], Placement.AFTER)[0].text for request in requests]
    assert [answer.text for answer in pair.llm.answer(requests, Placement.AFTER)] == alone


def test_a_token_that_holds_the_stop_text_is_the_last_one(pair: Any) -> None:
    stop = tuple("abcdefghijklmnopqrstuvwxyz")
    prepared = pair.llm.reader.prepare([request_of(pair, at, stop=stop) for at in range(len(PROMPTS))], Placement.AFTER)
    found = pair.llm.engine.run(prepared)
    for decoded in found:
        texts = [pair.llm.format.tokenizer.decode([token]) for token in decoded.ids]
        assert not any(letter in text for letter in stop for text in texts[:-1])
    assert any(len(decoded.ids) < LIMIT for decoded in found)


def test_beams_end_before_a_stop_text_too(tiny_llm_folder: Any) -> None:
    llm = FrozenLLM.from_pretrained(str(tiny_llm_folder), num_beams=3)
    requests = [Request(prompt, None, None, LIMIT, ("a", "e")) for prompt in PROMPTS]
    for answer in llm.answer(requests, Placement.AFTER):
        assert isinstance(answer, Answer)
        assert not set("ae") & set(answer.text)


@pytest.mark.parametrize("count", [1, 2])
def test_no_tokens_in_a_row_come_twice(pair: Any, count: int) -> None:
    requests = [request_of(pair, at, no_repeat=count if at != 2 else 0) for at in range(len(PROMPTS))]
    prepared: list[Prepared] = pair.llm.reader.prepare(requests, Placement.AFTER)
    for request, decoded in zip(requests, pair.llm.engine.run(prepared), strict=True):
        assert list(decoded.ids) == unrepeated(pair, request, request.no_repeat or LIMIT)
