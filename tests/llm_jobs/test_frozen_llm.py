import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_requests import prepared
from tiny_models import DECODER_SIZES
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from embedder.devices import has_bfloat16
from embedder.errors import InputMissing, PplugError, UsageError
from embedder.fingerprints import weights_sha256
from llm_jobs import FrozenLLM
from llm_jobs.engine.causal import CausalLM
from llm_jobs.engine.check import causal_engine
from llm_jobs.engine.differences import difference
from llm_jobs.engine.kv_cache import Prefix
from llm_jobs.engine.llama import LlamaTrunk, is_supported
from llm_jobs.engine.rules import Rules
from llm_jobs.engine.stepwise import batches
from llm_jobs.engine.trunk import TransformersTrunk
from llm_jobs.prompts import Answer, Placement, PromptParts, Refusal, Request

prompts = st.text(st.characters(codec="utf8"), max_size=30).map(lambda text: f"which {text}")
LLAMA_3_ROTATION = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
drawn_requests = st.lists(st.tuples(prompts, st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=4)
placements = st.sampled_from(Placement)


def requests_of(pair: Any, drawn: list[tuple[str, int, int]]) -> list[Request]:
    return [
        Request(prompt, pair.soft_prompt(size, seed) if size else None, None, limit)
        for seed, (prompt, size, limit) in enumerate(drawn)
    ]


def assert_same(answers: Sequence[Answer], others: Sequence[Answer]) -> None:
    """Equal but for the rounding of the scores."""
    for answer, other in zip(answers, others, strict=True):
        assert replace(answer, score=0.0) == replace(other, score=0.0)
        assert answer.score == pytest.approx(other.score, abs=1e-4)


def state_sha256(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


@settings(max_examples=20, deadline=None)
@given(drawn=drawn_requests, placement=placements)
def test_greedy_answers_equal_those_of_transformers(pair: Any, drawn: Any, placement: Placement) -> None:
    requests = requests_of(pair, drawn)
    for request, answer in zip(requests, pair.llm.answer(requests, placement), strict=True):
        soft = torch.empty(0, pair.llm.width) if request.soft_prompt is None else request.soft_prompt
        parts = pair.llm.parts(request.prompt, placement, len(soft) + request.max_new_tokens)
        ids = pair.generated_ids(parts, soft, request.max_new_tokens)
        assert answer.text == pair.llm.format.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert answer.output_tokens == len(ids)
        assert answer.prompt_tokens == len(parts.before) + len(soft) + len(parts.after)
        assert answer.score == pytest.approx(pair.token_log_probs(parts, soft, tuple(ids)).mean().item(), abs=1e-4)
        has_ended = ids[-1] in pair.reference.generation_config.eos_token_id
        assert answer.finish_reason == ("eos" if has_ended else "length")


@settings(max_examples=20, deadline=None)
@given(drawn=drawn_requests, placement=placements, order=st.randoms(use_true_random=False))
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(
    pair: Any, drawn: Any, placement: Placement, order: Any
) -> None:
    requests = requests_of(pair, drawn)
    alone = [answer for request in requests for answer in pair.llm.answer([request], placement)]
    shuffled = list(range(len(requests)))
    order.shuffle(shuffled)
    together = pair.llm.answer([requests[at] for at in shuffled], placement)
    assert_same(together, [alone[at] for at in shuffled])


def test_greedy_equals_one_full_forward_pass_per_step(pair: Any) -> None:
    soft = pair.soft_prompt(2, 5)
    parts = pair.llm.parts("which category", Placement.AFTER, 20)
    ids: tuple[int, ...] = ()
    for _ in range(8):
        ids = (*ids, int(pair.logits(parts, soft, ids)[-1].argmax()))
        if ids[-1] in pair.reference.generation_config.eos_token_id:
            break
    [answer] = pair.llm.generate(["which category"], [soft], max_new_tokens=8, placement=Placement.AFTER)
    assert answer.text == pair.llm.format.tokenizer.decode(list(ids), skip_special_tokens=True).strip()


@settings(max_examples=20, deadline=None)
@given(
    drawn=st.lists(st.tuples(prompts, prompts), min_size=1, max_size=4), size=st.integers(1, 3), placement=placements
)
def test_answer_log_probs_and_their_gradient_equal_those_of_a_full_forward_pass(
    pair: Any, drawn: Any, size: int, placement: Placement
) -> None:
    parts = [pair.llm.parts(prompt, placement, 40) for prompt, _ in drawn]
    answers = [pair.llm.answer_ids(answer)[:20] for _, answer in drawn]
    soft = torch.stack([pair.soft_prompt(size, seed) for seed in range(len(drawn))]).requires_grad_()
    found = pair.llm.answer_log_probs(parts, soft, answers)
    slow = torch.stack([pair.token_log_probs(*row).mean() for row in zip(parts, soft, answers, strict=True)])
    torch.testing.assert_close(found, slow, atol=1e-4, rtol=1e-4)
    weights = torch.arange(1.0, len(drawn) + 1)
    gradients = [torch.autograd.grad((values * weights).sum(), soft)[0] for values in (found, slow)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_no_weight_of_the_llm_ever_moves_or_gets_a_gradient(pair: Any) -> None:
    before = state_sha256(pair.llm.model)
    assert before == state_sha256(pair.reference)
    soft = torch.nn.Parameter(pair.soft_prompt(2, 0)[None])
    optimizer = torch.optim.SGD([soft], lr=1.0)
    for _ in range(3):
        parts = [pair.llm.parts("which", Placement.BEFORE, 20)]
        loss = -pair.llm.answer_log_probs(parts, soft, [pair.llm.answer_ids("sports")]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pair.llm.answer([Request("which", soft[0]), Request("which", soft[0], ("a", "b"))], Placement.AFTER)
    assert soft.grad is not None
    assert soft.grad.abs().sum() > 0
    for weight in pair.llm.model.parameters():
        assert not weight.requires_grad
        assert weight.grad is None
    assert state_sha256(pair.llm.model) == before


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(3, 6), max_size=6).map(tuple), max_size=5))
def test_prefixes_are_those_read_alone(tiny_llm: FrozenLLM, befores: list[tuple[int, ...]]) -> None:
    together = tiny_llm.prefixes(befores)
    for before, prefix in zip(befores, together, strict=True):
        assert prefix.length == len(before)
        assert prefix is together[befores.index(before)]
        torch.testing.assert_close(prefix.keys_values, tiny_llm.prefixes([before])[0].keys_values)


def test_long_prompts_are_read_in_pieces(tiny_llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ["which category is it", "a", "which " * 8]
    whole = tiny_llm.generate(prompts, max_new_tokens=4)
    monkeypatch.setattr("llm_jobs.engine.prefill.READ_TOKENS", 3)
    monkeypatch.setattr("llm_jobs.engine.causal.PREFIX_TOKENS", 20)
    pieces = tiny_llm.generate(prompts, max_new_tokens=4)
    assert_same(pieces, whole)


SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SMALL, num_key_value_heads=4, head_dim=6),
        LlamaConfig(**SMALL, num_key_value_heads=1, rope_parameters=LLAMA_3_ROTATION, tie_word_embeddings=True),
        MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=None),
        MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=6),
        Qwen2Config(**SMALL, num_key_value_heads=2),
        Qwen2Config(**SMALL, num_key_value_heads=2, use_sliding_window=True, sliding_window=6, max_window_layers=1),
    ],
    ids=["llama", "llama3", "mistral", "mistral window", "qwen2", "qwen2 windows"],
)
def test_our_forward_pass_equals_that_of_transformers(config: PreTrainedConfig) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.normal_()
    rules = Rules(model, [2])
    theirs, ours = (CausalLM(trunk(model), [2], 1 << 20, rules) for trunk in (TransformersTrunk, LlamaTrunk))
    assert difference(ours, model, range(9, 40)) < 1e-3
    parts = [PromptParts(tuple(range(9, 40)), (7, 8)), PromptParts((9, 9), (5,))]
    answers = [(5, 6, 7), (8,)]
    soft = torch.randn(2, 3, ours.trunk.width, requires_grad=True)
    values = [engine.answer_log_probs(parts, soft, answers, prefixes_of(engine, parts)) for engine in (theirs, ours)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), soft)[0] for value in values), atol=1e-4, rtol=1e-3)
    requests = [prepared(part.before, part.after, soft[at].detach(), limit=8) for at, part in enumerate(parts)]
    decoded = [engine.run(requests) for engine in (theirs, ours)]
    assert [answer.ids for answer in decoded[0]] == [answer.ids for answer in decoded[1]]


def prefixes_of(engine: CausalLM, parts: Sequence[PromptParts]) -> list[Prefix]:
    return engine.prefixes([part.before for part in parts])


def engine_of(model: Any) -> Any:
    """How a causal LLM is run."""
    return causal_engine(model.eval().requires_grad_(False), [2], Rules(model, [2]), 1 << 20, 1, range(9, 40))


def test_decoders_we_do_not_know_go_through_transformers() -> None:
    for config in (
        LlamaConfig(**SMALL, num_key_value_heads=2, mlp_bias=True),
        LlamaConfig(**SMALL, num_key_value_heads=2, attention_bias=True),
        LlamaConfig(**SMALL, num_key_value_heads=2, hidden_act="gelu"),
        GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
        GraniteConfig(**SMALL, logits_scaling=8.0),
    ):
        model = AutoModelForCausalLM.from_config(config)
        assert not is_supported(model)
        assert engine_of(model).kernel == "transformers"


def test_an_llm_without_keys_and_values_answers_prompts_of_one_length(caplog: pytest.LogCaptureFixture) -> None:
    config = MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2)
    assert engine_of(AutoModelForCausalLM.from_config(config)).kernel == "transformers, prompts of one length"
    assert "MambaForCausalLM (mamba) answers prompts of one length at a time, which is slower" in caplog.text


def test_a_model_that_looks_at_later_tokens_is_refused() -> None:
    config = BertConfig(**SMALL)
    with pytest.raises(
        PplugError, match=r"BertLMHeadModel \(bert\) does not answer here as in transformers: .* choose"
    ):
        engine_of(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("window", [5, 16])
def test_a_window_is_a_mask_and_no_limit_of_the_context(
    window: int, save_model: Callable[[str, Any, bool], Path], pair_in: Callable[[Path], Any]
) -> None:
    torch.manual_seed(4)
    config = MistralConfig(**DECODER_SIZES, max_position_embeddings=96, sliding_window=window)
    folder = save_model(f"mistral{window}", AutoModelForCausalLM.from_config(config), True)
    pair = pair_in(folder)
    assert pair.llm.context_length == 96
    assert pair.llm.kernel == "pplug llama float32"
    labels = ("arts & culture", "arts", "sports")
    prompts = ["which category " * (1 + at) for at in range(4)]
    requests = [Request(prompt, pair.soft_prompt(2, at), None, 9) for at, prompt in enumerate(prompts)]
    requests += [replace(request, choices=labels) for request in requests]
    for request, answer in zip(requests, pair.llm.answer(requests, Placement.AFTER), strict=True):
        assert isinstance(answer, Answer)
        assert not answer.is_shortened
        parts = pair.llm.parts(request.prompt, Placement.AFTER, 12)
        if request.choices:
            scores = [
                pair.token_log_probs(parts, request.soft_prompt, pair.llm.answer_ids(label)).mean() for label in labels
            ]
            assert answer.score == pytest.approx(max(scores).item(), abs=1e-4)
        else:
            ids = pair.generated_ids(parts, request.soft_prompt, 9)
            assert answer.text == pair.llm.format.tokenizer.decode(ids, skip_special_tokens=True).strip()
    soft = torch.stack([pair.soft_prompt(2, at) for at in range(4)]).requires_grad_()
    parts = [pair.llm.parts(prompt, Placement.BEFORE, 12) for prompt in prompts]
    answers = [pair.llm.answer_ids("arts & culture")] * 4
    found = pair.llm.answer_log_probs(parts, soft, answers)
    slow = torch.stack([pair.token_log_probs(*row).mean() for row in zip(parts, soft, answers, strict=True)])
    torch.testing.assert_close(found, slow, atol=1e-4, rtol=1e-4)


def test_training_goes_through_an_llm_without_prefixes(
    save_model: Callable[[str, Any, bool], Path], pair_in: Callable[[Path], Any]
) -> None:
    torch.manual_seed(5)
    config = MptConfig(d_model=32, n_heads=4, n_layers=2, expansion_ratio=2, max_seq_len=96, vocab_size=300)
    folder = save_model("mpt", AutoModelForCausalLM.from_config(config), False)
    pair = pair_in(folder)
    assert (pair.llm.has_prefixes, pair.llm.values_width, pair.llm.context_length) == (False, 0, 96)
    soft = torch.stack([pair.soft_prompt(2, at) for at in range(3)]).requires_grad_()
    parts = [pair.llm.parts("which " * (1 + at), Placement.BEFORE, 20) for at in range(3)]
    answers = [pair.llm.answer_ids(label) for label in ("arts", "arts & culture", "sports")]
    found = pair.llm.answer_log_probs(parts, soft, answers)
    slow = torch.stack([pair.token_log_probs(*row).mean() for row in zip(parts, soft, answers, strict=True)])
    torch.testing.assert_close(found, slow, atol=1e-4, rtol=1e-4)
    gradients = [torch.autograd.grad(values.sum(), soft)[0] for values in (found, slow)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)
    with pytest.raises(PplugError, match="no prefixes"):
        pair.llm.prefixes([(3, 4)])


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes"])
def test_quantised_weights_are_refused_by_name(method: str, tiny_llm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llm_folder, folder)
    path = folder / "config.json"
    settings = json.loads(path.read_text("utf8")) | {"quantization_config": {"quant_method": method, "bits": 4}}
    path.write_text(json.dumps(settings), "utf8")
    with pytest.raises(PplugError, match=rf"weights are quantised \({method}\), which pplug does not read: choose"):
        FrozenLLM.from_pretrained(str(folder))


def test_a_long_input_loses_its_middle_and_is_flagged(pair: Any) -> None:
    room = pair.llm.context_length
    text = " ".join(str(number) for number in range(room))
    soft = pair.soft_prompt(3, 0)
    answers = pair.llm.answer(
        [Request(text, soft, None, 10), Request(text, soft, ("a", "arts & culture")), Request("hi", soft)],
        Placement.AFTER,
    )
    assert [answer.is_shortened for answer in answers] == [True, True, False]
    room -= 0 if pair.llm.is_encoder_decoder else 10
    assert answers[0].prompt_tokens == room
    refused = pair.llm.answer(
        [Request("hi", pair.soft_prompt(pair.llm.context_length, 0)), Request("hi")], Placement.AFTER
    )
    assert refused[0].reason == "prompt_too_long"
    assert isinstance(refused[1], Answer)


@pytest.mark.parametrize("choices", [None, ("arts", "sports")])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("rows", [1, 128])
def test_only_the_request_with_broken_numbers_is_refused(
    pair: Any, choices: Any, number: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_jobs.engine.scheduler.MOST_ROWS", rows)  # with 1, the others take its row
    good = [Request(f"which {at}", pair.soft_prompt(2, at), choices, 6) for at in range(4)]
    bad = Request("which category", torch.full((2, pair.llm.width), number), choices, 6)
    found = pair.llm.answer([*good[:2], bad, *good[2:]], Placement.AFTER)
    assert isinstance(found[2], Refusal)
    assert found[2].reason == "non_finite_logits"
    assert_same(found[:2] + found[3:], pair.llm.answer(good, Placement.AFTER))


def test_a_request_the_model_fails_on_does_not_take_its_batch_down(pair: Any) -> None:
    good = [Request(f"which {at}", pair.soft_prompt(2, at), None, 6) for at in range(5)]
    bad = Request("which 9", torch.zeros(2, pair.llm.width + 1), None, 6)
    found = pair.llm.answer([*good[:2], bad, *good[2:]], Placement.BEFORE)
    assert isinstance(found[2], Refusal)
    assert found[2].reason == "model_error"
    assert_same(found[:2] + found[3:], pair.llm.answer(good, Placement.BEFORE))
    with pytest.raises(RuntimeError):
        pair.llm.answer([bad, bad], Placement.BEFORE)


def test_generate_raises_where_answer_refuses(tiny_llm: FrozenLLM) -> None:
    assert tiny_llm.answer([], Placement.AFTER) == []
    assert tiny_llm.generate([]) == []
    with pytest.raises(PplugError, match="prompt 1 was refused: empty_prompt"):
        tiny_llm.generate(["which", " "])
    with pytest.raises(UsageError, match="max_new_tokens"):
        tiny_llm.generate(["which"], max_new_tokens=0)


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 2), st.booleans()), max_size=200))
def test_batches_hold_every_request_once_and_stay_in_the_budget(drawn: list[tuple[int, int, bool]]) -> None:
    requests = [
        prepared((5,) * length, soft=torch.empty(size, 1), choices=((1,),) if is_closed else ())
        for length, size, is_closed in drawn
    ]
    found = list(batches(requests))
    assert sum(map(len, found)) == len(requests)
    assert {request for batch in found for request in batch} == set(requests)
    for batch in found:
        assert len(batch) <= 64
        assert len(batch) * max(request.tokens for request in batch) <= 8192
        assert len({(len(request.soft), bool(request.choices)) for request in batch}) == 1


def test_what_is_known_of_a_model(tiny_llm: FrozenLLM, tiny_llm_folder: Path, tiny_t5: FrozenLLM) -> None:
    assert (tiny_llm.width, tiny_llm.context_length, tiny_llm.is_encoder_decoder) == (32, 96, False)
    assert (tiny_t5.width, tiny_t5.context_length, tiny_t5.is_encoder_decoder) == (32, 512, True)
    table = tiny_llm.model.get_input_embeddings().weight
    assert tiny_llm.embedding_norm == pytest.approx(table.norm(dim=1).mean().item(), rel=1e-5)
    assert tiny_llm.kernel == "pplug llama float32"
    assert tiny_llm.sha256 == FrozenLLM.from_pretrained(str(tiny_llm_folder), dtype="bfloat16").sha256
    assert tiny_llm.sha256 not in (tiny_t5.sha256, weights_sha256(tiny_llm_folder))
    with pytest.raises(PplugError, match="no prefixes"):
        tiny_t5.prefixes([(3, 4)])


def test_bfloat16_answers_with_the_instructions_or_says_that_it_does_not(
    tiny_llm_folder: Path, tiny_llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = ("arts", "sports", "politics")
    requests = [Request("which category", None, choices), Request("which category")]
    exact = tiny_llm.answer(requests, Placement.AFTER)[0].score
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    rounded = FrozenLLM.from_pretrained(str(tiny_llm_folder), dtype="bfloat16")
    assert rounded.kernel == "pplug llama bfloat16"
    assert rounded.answer(requests, Placement.AFTER)[0].score == pytest.approx(exact, abs=0.1)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    fallback = FrozenLLM.from_pretrained(str(tiny_llm_folder), dtype="bfloat16")
    assert fallback.kernel == "pplug llama float32 (no bfloat16 instructions)"
    assert fallback.answer(requests, Placement.AFTER) == tiny_llm.answer(requests, Placement.AFTER)


@pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16 instructions")
@pytest.mark.skipif(
    bool(torch.cpu.get_capabilities().get("amx_bf16")),
    reason="with AMX oneDNN adds in another order for few rows, so only 98% of answers are equal (agreement.py)",
)
def test_in_bfloat16_an_answer_is_the_same_to_the_last_bit_in_any_batch() -> None:
    pytest.importorskip("gguf")
    llm = FrozenLLM.from_pretrained("smollm2", dtype="bfloat16")
    soft = torch.randn(6, 4, llm.width, generator=torch.Generator().manual_seed(0)) * 0.13
    labels = ("arts & culture", "arts", "world news", "politics")
    requests = [Request("a headline about rain " * (at + 1), soft[at], None, 6) for at in range(3)]
    requests += [Request("a category of news " * (at + 1), soft[at], labels) for at in range(3, 6)]
    alone = [answer for request in requests for answer in llm.answer([request], Placement.AFTER)]
    assert llm.answer(requests, Placement.AFTER) == alone


def test_models_that_cannot_be_used_are_refused(tiny_llm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="float16"):
        FrozenLLM.from_pretrained(str(tiny_llm_folder), dtype="float16")  # pyright: ignore[reportArgumentType]  # the test
    with pytest.raises(InputMissing):
        FrozenLLM.from_pretrained(str(tmp_path / "nowhere"))


def test_the_packaged_model_answers() -> None:
    pytest.importorskip("gguf")
    llm = FrozenLLM.from_pretrained("smollm2")
    [answer] = llm.generate(["What is the capital of France?"], max_new_tokens=12)
    assert answer.text == "The capital of France is Paris."
    assert answer.finish_reason == "eos"
    cities = tuple(f"The capital of France is {city}." for city in ("Rome", "Paris", "Oslo"))
    [closed] = llm.answer([Request("What is the capital of France?", None, cities)], Placement.AFTER)
    assert isinstance(closed, Answer)
    assert closed.text == cities[1]
