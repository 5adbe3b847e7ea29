"""What vLLM is asked for, answered by a real tiny model in its place; tests/pipelines/test_vllm_engine.py has vLLM."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from llm_jobs import FrozenLLM
from llm_jobs.prompts import Answer, Placement, Request
from llm_jobs.tasks import AnsweringLLM
from llm_jobs.vllm_engine import VllmEngine, gpus_for

CHOICES = ("arts & culture", "arts", "sports", "sports news", "politics")


class InPlaceOfVllm:
    """Answers embedded prompts as vLLM does, one plain pass for each token."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.calls: list[int] = []

    def generate(self, prompts: list[dict[str, Tensor]], params: list[Any], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.calls.append(len(prompts))
        return [
            SimpleNamespace(outputs=[self._said(prompt["prompt_embeds"], asked)])
            for prompt, asked in zip(prompts, params, strict=True)
        ]

    @torch.no_grad()
    def _said(self, embeds: Tensor, asked: Any) -> Any:
        ids, total, wanted = list[int](), 0.0, dict[int, Any]()
        while len(ids) < asked.max_tokens and not (ids and ids[-1] in asked.stop_token_ids):
            log_probs = self._model(inputs_embeds=embeds[None], use_cache=False).logits[0, -1].log_softmax(0)
            if not ids:
                wanted = {
                    token: SimpleNamespace(logprob=float(log_probs[token]))
                    for token in getattr(asked, "logprob_token_ids", ())
                }
            ids.append(int(log_probs.argmax()))
            total += float(log_probs[ids[-1]])
            embeds = torch.cat([embeds, self._model.get_input_embeddings()(torch.tensor(ids[-1:]))])
        reason = "stop" if ids[-1] in asked.stop_token_ids else "length"
        return SimpleNamespace(token_ids=ids, cumulative_logprob=total, finish_reason=reason, logprobs=[wanted])


@pytest.fixture
def server(tiny_llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> InPlaceOfVllm:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SimpleNamespace))
    return InPlaceOfVllm(tiny_llm.model)


@pytest.fixture
def vllm(tiny_llm: FrozenLLM, server: InPlaceOfVllm) -> AnsweringLLM:
    table = tiny_llm.model.get_input_embeddings().weight
    return AnsweringLLM(tiny_llm.reader, VllmEngine(server, table, tiny_llm.reader.end_ids), "a", "vllm")


def requests_of(llm: FrozenLLM, choices: tuple[str, ...] | None) -> list[Request]:
    """Two texts, each of three users."""
    drawn = torch.randn(6, 2, llm.width, generator=torch.Generator().manual_seed(1))
    personas = drawn / drawn.norm(dim=2, keepdim=True) * llm.embedding_norm
    texts = ["which category", "an article about sports"]
    return [Request(texts[at % 2], persona, choices, 6) for at, persona in enumerate(personas)]


@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize("choices", [None, CHOICES])
def test_answers_are_those_of_the_default_engine_from_one_call(
    vllm: AnsweringLLM, server: InPlaceOfVllm, tiny_llm: FrozenLLM, placement: Placement, choices: Any
) -> None:
    requests = requests_of(tiny_llm, choices)
    found, wanted = (llm.answer(requests, placement) for llm in (vllm, tiny_llm))
    assert len(server.calls) == 1  # every fork of every task
    assert server.calls[0] == len(requests) if choices is None else server.calls[0] > len(requests)
    for answer, other in zip(found, wanted, strict=True):
        assert isinstance(answer, Answer)
        assert isinstance(other, Answer)
        assert (answer.text, answer.finish_reason) == (other.text, other.finish_reason)
        assert answer.score == pytest.approx(other.score, abs=1e-4)


def test_users_with_the_same_text_get_answers_of_their_own(vllm: AnsweringLLM, tiny_llm: FrozenLLM) -> None:
    requests = requests_of(tiny_llm, None)
    together = vllm.answer(requests, Placement.AFTER)
    assert together == [answer for request in requests for answer in vllm.answer([request], Placement.AFTER)]
    assert len({answer.text for answer in together[::2] if isinstance(answer, Answer)}) > 1


def test_a_model_is_spread_over_as_many_gpus_as_share_its_heads_evenly() -> None:
    config = LlamaConfig(hidden_size=48, num_attention_heads=12)
    assert [gpus_for(config, count) for count in (0, 1, 2, 5, 7, 12, 16)] == [1, 1, 2, 4, 6, 12, 12]
