"""Settings of generation_config.json: obeyed as `transformers` does, refused by name, or harmless."""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from harmless_settings import HARMLESS
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig, MptConfig, MptForCausalLM

from embedder.errors import PplugError
from llm_jobs import FrozenLLM
from llm_jobs.engine.rules import (
    HONOURED,
    REFUSED,
    REFUSED_WITH_BEAMS,
    Rules,
    require_known_decoding,
    require_no_rules,
)
from llm_jobs.prompts import Placement, Request

RULES: dict[str, Any] = {
    "bad_words_ids": [[40], [50, 60]],
    "begin_suppress_tokens": list(range(3, 150)),
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 0.4,
    "exponential_decay_length_penalty": [2, 1.5],
    "forced_bos_token_id": 77,
    "forced_eos_token_id": 2,
    "min_length": 9,
    "min_new_tokens": 7,
    "no_repeat_ngram_size": 1,
    "renormalize_logits": True,
    "repetition_penalty": 1.8,
    "sequence_bias": [[[45], 5.0], [[46], -5.0]],
    "suppress_tokens": list(range(100, 180)),
}
"""A value of every setting that is obeyed."""
ASKED: dict[str, Any] = {
    "constraints": ["x"],
    "diversity_penalty": 0.5,
    "dola_layers": "high",
    "force_words_ids": [[5]],
    "guidance_scale": 2.0,
    "low_memory": True,
    "max_time": 3.0,
    "num_beam_groups": 2,
    "penalty_alpha": 0.6,
    "stop_strings": ["x"],
    "token_healing": True,
    "watermarking_config": {"bias": 2.0},
}
"""A value of every setting that is refused."""

PROMPTS = ("which news category", "arts", "politics world news arts & culture sports", "a b c a b c")


@pytest.fixture(scope="module")
def folders(
    tiny_llm_folder: Path, tiny_qwen_folder: Path, tiny_t5_folder: Path, save_model: Callable[..., Path]
) -> dict[str, Path]:
    torch.manual_seed(3)
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 300, "max_position_embeddings": 96}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    tokens = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 2}
    bart = save_model("bart", BartForConditionalGeneration(BartConfig(**sizes, **heads, **tokens)), False)
    config = MptConfig(d_model=32, n_heads=4, n_layers=2, expansion_ratio=2, max_seq_len=96, vocab_size=300)
    mpt = save_model("mpt", MptForCausalLM(config), False)
    return {"mpt": mpt, "llama": tiny_llm_folder, "qwen": tiny_qwen_folder, "t5": tiny_t5_folder, "bart": bart}


def with_settings(folder: Path, target: Path, **settings: Any) -> Path:
    """A copy of a model with more in its generation_config.json."""
    shutil.copytree(folder, target)
    path = target / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf8")) | settings), "utf8")
    return target


def test_every_setting_is_obeyed_refused_or_harmless_for_a_reason() -> None:
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    known = [HONOURED, REFUSED, REFUSED_WITH_BEAMS, HARMLESS]
    assert fields == {name for settings in known for name in settings}
    assert sum(map(len, known)) == len(fields)
    assert set(RULES) == set(HONOURED)
    assert set(ASKED) == set(REFUSED)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("model", ["llama", "qwen", "mpt", "t5", "bart"])
def test_settings_mean_what_they_mean_to_transformers(model: str, num_beams: int, folders: dict[str, Path]) -> None:
    llm = FrozenLLM.from_pretrained(str(folders[model]), num_beams=num_beams)
    untyped: Any = llm.model
    plain = untyped.generation_config
    requests = [Request(prompt, None, None, 8) for prompt in PROMPTS]
    for setting, value in RULES.items():
        untyped.generation_config = deepcopy(plain)
        untyped.generation_config.update(**{setting: value})
        vars(llm.engine)["_rules"] = Rules(llm.model, llm_ends(llm))  # as if loaded with it, but sooner
        for request, answer in zip(requests, llm.answer(requests, Placement.AFTER), strict=True):
            ids = generated(llm, request, num_beams)
            text = llm.format.tokenizer.decode(ids, skip_special_tokens=True).strip()
            same = (answer.text, answer.output_tokens) == (text, len(ids))
            assert same or answer.tie_count, (setting, request.prompt, answer, text)


def generated(llm: FrozenLLM, request: Request, num_beams: int) -> list[int]:
    """What `generate` answers to the ids of the prompt, up to the first end token."""
    parts, model = llm.parts(request.prompt, Placement.AFTER, 8), llm.model
    ids = torch.tensor([parts.before + parts.after])
    untyped: Any = model
    said = untyped.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, num_beams=num_beams
    )
    new: list[int] = said[0, 1 if llm.is_encoder_decoder else ids.shape[1] :].tolist()
    ends = [at for at, token in enumerate(new) if token in llm_ends(llm)]
    return new[: ends[0] + 1] if ends else new


def llm_ends(llm: FrozenLLM) -> tuple[int, ...]:
    return llm.reader.end_ids


def test_vllm_refuses_a_model_with_rules() -> None:
    require_no_rules(GenerationConfig(repetition_penalty=1.0, temperature=0.5), "some model")
    with pytest.raises(PplugError, match=r"some model: repetition_penalty = 1.1 .* use the engine transformers"):
        require_no_rules(GenerationConfig(repetition_penalty=1.1), "some model")


def test_rules_change_answers_and_the_fingerprint(folders: dict[str, Path], tmp_path: Path) -> None:
    plain = FrozenLLM.from_pretrained(str(folders["llama"]))
    texts = {answer.text for answer in plain.generate(PROMPTS, max_new_tokens=8)}
    folder = with_settings(folders["llama"], tmp_path / "model", repetition_penalty=1.8, temperature=0.5, top_k=7)
    ruled = FrozenLLM.from_pretrained(str(folder))
    assert {answer.text for answer in ruled.generate(PROMPTS, max_new_tokens=8)} != texts
    harmless = with_settings(folders["llama"], tmp_path / "other", temperature=0.5, top_k=7)
    assert FrozenLLM.from_pretrained(str(harmless)).sha256 == plain.sha256 != ruled.sha256


@pytest.mark.parametrize("setting", sorted(ASKED))
def test_a_setting_that_is_not_done_is_refused_by_name(setting: str) -> None:
    with pytest.raises(PplugError, match=rf"some model: its generation_config.json has {setting} = "):
        require_known_decoding(GenerationConfig(**{setting: ASKED[setting]}), "some model")


def test_a_model_with_such_a_setting_is_not_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = with_settings(folders["llama"], tmp_path / "model", stop_strings=["x"])
    with pytest.raises(PplugError, match=r"LlamaForCausalLM: its generation_config.json has stop_strings"):
        FrozenLLM.from_pretrained(str(folder))


@pytest.mark.parametrize(("setting", "value"), [("length_penalty", 2.0), ("early_stopping", True)])
def test_rules_of_beam_search_are_refused_with_beams_only(setting: str, value: Any) -> None:
    config = GenerationConfig(num_beams=4, **{setting: value})
    require_known_decoding(config, "some model")
    with pytest.raises(PplugError, match=f"{setting}.*leave out --num-beams"):
        require_known_decoding(config, "some model", num_beams=2)
