"""Whatever changes a model's output changes its fingerprint; weights must be numbers."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_folders import BERT, bert, save
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import save_model, tiny_llama

from embedder import TextEncoder
from embedder.errors import PplugError
from embedder.fingerprints import WITHOUT_BEARING, file_sha256, fingerprint
from llm_jobs import FrozenLLM


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), tiny_llama(0, 64), is_chat=True)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    return save(tmp_path_factory.mktemp("bert"), bert(), BERT)


def sha_with(folder: Path, name: str, change: dict[str, Any], sha256: Callable[[Path], str]) -> str:
    """A fingerprint while a file says something else."""
    path = folder / name
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | change))
    try:
        return sha256(folder)
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"rms_norm_eps": 1e-3}),
        ("config.json", {"hidden_act": "gelu"}),
        ("config.json", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        ("config.json", {"repetition_penalty": 1.5}),
        ("generation_config.json", {"repetition_penalty": 1.5}),
        ("generation_config.json", {"suppress_tokens": [5]}),
        ("generation_config.json", {"of_tomorrow": 1}),
        ("tokenizer_config.json", {"add_prefix_space": True}),
    ],
)
def test_a_setting_of_an_llm_changes_its_fingerprint(llama: Path, name: str, change: dict[str, Any]) -> None:
    assert sha_with(llama, name, change, fingerprint) != fingerprint(llama)


@pytest.mark.parametrize("change", [{"layer_norm_eps": 1e-3}, {"hidden_act": "relu"}])
def test_a_setting_of_an_encoder_changes_its_fingerprint(encoder: Path, change: dict[str, Any]) -> None:
    def sha256(folder: Path) -> str:
        return TextEncoder.from_pretrained(str(folder)).sha256

    assert sha_with(encoder, "config.json", change, sha256) != sha256(encoder)


@given(st.dictionaries(st.sampled_from(sorted(WITHOUT_BEARING)), st.integers()))
def test_what_changes_no_result_changes_no_fingerprint(llama: Path, change: dict[str, int]) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        assert sha_with(llama, name, change, fingerprint) == fingerprint(llama)


def test_the_vocabulary_counts(llama: Path) -> None:
    before = fingerprint(llama)
    (llama / "README.md").write_text("# A model")
    (llama / "vocab.txt").write_text("not read beside a tokenizer.json")
    assert fingerprint(llama) == before
    assert sha_with(llama, "tokenizer.json", {"normalizer": {"type": "Lowercase"}}, fingerprint) != before


def test_a_file_that_changes_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = file_sha256(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) != before


def test_damaged_settings_name_their_file(llama: Path) -> None:
    path = llama / "generation_config.json"
    before = path.read_text()
    path.write_text("{")
    with pytest.raises(PplugError, match=r"generation_config\.json is no JSON"):
        fingerprint(llama)
    path.write_text(before)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(wrong: float, tmp_path: Path) -> None:
    for folder, load in (
        (save(tmp_path / "bert", bert(), BERT), TextEncoder.from_pretrained),
        (save_model(tmp_path / "llama", tiny_llama(0, 64), is_chat=True), FrozenLLM.from_pretrained),
    ):
        path = folder / "model.safetensors"
        weights = load_file(path)
        name = max(weights)
        weights[name].view(-1)[-1] = wrong
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(PplugError, match="hold NaN or infinity"):
            load(str(folder))
