"""Every key of the sentence-transformers files: obeyed, without bearing on a vector, or refused by its name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_folders import BERT, bert, modules, save

from embedder import TextEncoder
from embedder.errors import PplugError
from embedder.pooling import Pooling
from embedder.text_settings import TRANSFORMER_FILES, TextSettings, read_text_settings

FILES = {
    "modules": "modules.json",
    "prompts": "config_sentence_transformers.json",
    "transformer": "sentence_bert_config.json",
    "pooling": "1_Pooling/config.json",
    "normalize": "2_Normalize/config.json",
}
CLIP_TEXT = {"method": "get_text_features", "method_output_name": None}
TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}

# What sentence-transformers 6.2 and the versions before it write and read.
OBEYED: list[tuple[str, dict[str, Any], TextSettings]] = [
    ("prompts", {"prompts": {"query": "q: ", "document": "d: "}}, TextSettings(text_prefix="d: ", query_prefix="q: ")),
    ("prompts", {"prompts": {"query": "q: ", "corpus": "c: "}}, TextSettings(text_prefix="c: ", query_prefix="q: ")),
    ("prompts", {"prompts": {"query": "", "document": None}}, TextSettings()),
    (
        "prompts",
        {"prompts": {"sts": "s: "}, "default_prompt_name": "sts"},
        TextSettings(text_prefix="s: ", query_prefix="s: "),
    ),
    ("prompts", {"truncate_dim": 16}, TextSettings(width=16)),
    ("transformer", {"max_seq_length": 24}, TextSettings(max_tokens=24)),
    ("transformer", {"max_seq_length": None}, TextSettings()),
    ("transformer", {"do_lower_case": True}, TextSettings(is_lower_case=True)),
    ("pooling", {"pooling_mode": "cls"}, TextSettings(Pooling.CLS)),
    ("pooling", {"pooling_mode": ["lasttoken"]}, TextSettings(Pooling.LAST)),
    ("pooling", {"pooling_mode": "mean_sqrt_len_tokens"}, TextSettings()),
    ("pooling", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, TextSettings(Pooling.CLS)),
    ("pooling", {"pooling_mode_max_tokens": True}, TextSettings(Pooling.MAX)),
    ("pooling", {"pooling_mode_mean_tokens": True}, TextSettings()),
    ("pooling", {"pooling_mode_mean_sqrt_len_tokens": True}, TextSettings()),
    ("pooling", {"pooling_mode_lasttoken": True}, TextSettings(Pooling.LAST)),
    ("pooling", {"pooling_mode": "mean", "include_prompt": True}, TextSettings()),
    ("pooling", {"pooling_mode": "mean", "include_prompt": False}, TextSettings()),  # there is no prompt
]
WITHOUT_BEARING: list[tuple[str, dict[str, Any]]] = [
    ("prompts", {"model_type": "SentenceTransformer"}),
    ("prompts", {"similarity_fn_name": "dot", "__version__": {"pytorch": "2"}, "requirements": ["transformers>=5"]}),
    ("transformer", {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}),
    ("transformer", {"modality_config": {"text": TEXT}}),
    ("transformer", {"modality_config": {"text": TEXT, "message": TEXT | {"format": "flat"}}}),
    ("transformer", {"unpad_inputs": True, "query_length": None, "document_length": None, "query_expansion": None}),
    ("transformer", {"processing_kwargs": {}, "model_args": {}, "tokenizer_args": {}, "config_args": {}}),
    ("pooling", {"word_embedding_dimension": 32, "embedding_dimension": 32}),
    ("normalize", {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}),
]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("prompts", {"model_type": "SparseEncoder"}, "model_type"),
    ("prompts", {"model_type": "CrossEncoder"}, "model_type"),
    ("prompts", {"default_prompt_name": "nowhere"}, "default_prompt_name"),
    ("prompts", {"prompts": ["query: "]}, "prompts"),
    ("prompts", {"prompts": {"query": 3}}, "prompts"),
    ("prompts", {"truncate_dim": 0}, "truncate_dim"),
    ("prompts", {"truncate_dim": "16"}, "truncate_dim"),
    ("prompts", {"of_tomorrow": 1}, "of_tomorrow"),
    ("transformer", {"max_seq_length": -3}, "max_seq_length"),
    ("transformer", {"transformer_task": "fill-mask"}, "transformer_task"),
    ("transformer", {"module_output_name": "scores"}, "module_output_name"),
    ("transformer", {"modality_config": {"text": CLIP_TEXT}}, "modality_config"),
    ("transformer", {"processing_kwargs": {"text": {"padding": "max_length"}}}, "processing_kwargs"),
    ("transformer", {"query_length": 32}, "query_length"),
    ("transformer", {"document_length": 32}, "document_length"),
    ("transformer", {"query_expansion": {"strategy": "fixed", "length": 32}}, "query_expansion"),
    ("transformer", {"model_args": {"attn_implementation": "eager"}}, "model_args"),
    ("transformer", {"model_kwargs": {"attn_implementation": "eager"}}, "model_kwargs"),
    ("transformer", {"tokenizer_args": {"add_eos_token": True}}, "tokenizer_args"),
    ("transformer", {"processor_kwargs": {"add_eos_token": True}}, "processor_kwargs"),
    ("transformer", {"config_args": {"num_hidden_layers": 1}}, "config_args"),
    ("transformer", {"config_kwargs": {"num_hidden_layers": 1}}, "config_kwargs"),
    ("transformer", {"tokenizer_name_or_path": "other"}, "tokenizer_name_or_path"),
    ("pooling", {"pooling_mode": ["cls", "mean"]}, "cls and mean"),
    ("pooling", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls and mean"),
    ("pooling", {"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
    ("pooling", {"pooling_mode": "attention"}, "attention"),
    ("normalize", {"module_input_name": "token_embeddings"}, "module_input_name"),
    ("normalize", {"module_output_name": "other"}, "module_output_name"),
]
ALL_MODULES = modules("Transformer", "Pooling", "Normalize")


def write(folder: Path, **contents: Any) -> Path:
    for name, content in ({"modules": ALL_MODULES} | contents).items():
        path = folder / FILES[name]
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(("file", "content", "wanted"), OBEYED)
def test_a_key_is_obeyed(file: str, content: dict[str, Any], wanted: TextSettings, tmp_path: Path) -> None:
    assert read_text_settings(write(tmp_path, **{file: content})) == wanted


@pytest.mark.parametrize(("file", "content"), WITHOUT_BEARING)
def test_a_key_without_bearing_changes_nothing(file: str, content: dict[str, Any], tmp_path: Path) -> None:
    assert read_text_settings(write(tmp_path, **{file: content})) == TextSettings()


@pytest.mark.parametrize(("file", "content", "named"), REFUSED)
def test_a_key_that_asks_for_more_is_refused_by_name(
    file: str, content: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(PplugError, match=named) as caught:
        read_text_settings(write(tmp_path, **{file: content}))
    assert FILES[file] in str(caught.value)


@pytest.mark.parametrize("name", TRANSFORMER_FILES)
def test_older_names_of_the_transformers_settings_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps({"max_seq_length": 24}))
    assert read_text_settings(tmp_path).max_tokens == 24


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        (modules("Transformer", "Pooling", "Dense"), "Dense"),
        (modules("Transformer"), "runs Transformer;"),
        (modules("Pooling", "Transformer"), "Pooling, Transformer"),
        (modules("Transformer", "Normalize", "Pooling"), "Normalize, Pooling"),
        (modules("Transformer", "Pooling", "Pooling"), "Pooling, Pooling"),
        ([], "nothing"),
        ({"Transformer": ""}, "no list of modules"),
        ([{"type": "sentence_transformers.models.Transformer"}], "no list of modules"),
        ([{"type": "x.Transformer", "path": "../other"}, {"type": "x.Pooling", "path": ""}], "out of the folder"),
        ([ALL_MODULES[0] | {"of_tomorrow": 1}, ALL_MODULES[1]], "of_tomorrow"),
    ],
)
def test_modules_that_would_do_more_are_refused(listed: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(PplugError, match=named):
        read_text_settings(write(tmp_path, modules=listed))


def test_a_prompt_that_pooling_would_leave_out_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, pooling={"include_prompt": False}, prompts={"prompts": {"query": "q: "}})
    with pytest.raises(PplugError, match=r"1_Pooling/config\.json: include_prompt = false: prefixes count"):
        read_text_settings(folder)


def test_damaged_settings_name_their_file(tmp_path: Path) -> None:
    (tmp_path / "sentence_bert_config.json").write_text("{")
    with pytest.raises(PplugError, match=r"sentence_bert_config\.json is no JSON"):
        read_text_settings(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text("[3]")
    with pytest.raises(PplugError, match=r"sentence_bert_config\.json holds no settings"):
        read_text_settings(tmp_path)


def test_only_the_first_numbers_are_kept_and_scaled_anew(tmp_path: Path) -> None:
    torch.manual_seed(1)
    save(tmp_path, bert(), BERT)
    whole = TextEncoder.from_pretrained(str(tmp_path))
    (tmp_path / "config_sentence_transformers.json").write_text('{"truncate_dim": 16}')
    cut = TextEncoder.from_pretrained(str(tmp_path))
    texts = ["the cat sat", "dog"]
    first = whole.encode(texts)[:, :16]
    assert (cut.width, cut.sha256 == whole.sha256) == (16, False)
    np.testing.assert_allclose(cut.encode(texts), first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-6)
    (tmp_path / "config_sentence_transformers.json").write_text('{"truncate_dim": 4000}')
    np.testing.assert_array_equal(TextEncoder.from_pretrained(str(tmp_path)).encode(texts), whole.encode(texts))
