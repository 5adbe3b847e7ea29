"""The encoder against plain transformers, one text at a time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_folders import BERT, ROBERTA, SIZES, WORDS, bert, modules, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_models import save_model, tiny_bert
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoTokenizer,
    BartConfig,
    BartModel,
    DistilBertConfig,
    DistilBertModel,
    FNetConfig,
    FNetModel,
    GPT2Config,
    GPT2Model,
    T5Config,
    T5EncoderModel,
    T5Model,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLNetConfig,
    XLNetModel,
)

from embedder import TextEncoder
from embedder import encoder as encoder_module
from embedder.devices import has_bfloat16
from embedder.encoder import token_batches
from embedder.errors import PplugError, UsageError
from embedder.linear import PackedProjection, Projection, projection_class
from embedder.models import model_folder
from embedder.packed_bert import PackedBert, attend, attend_at_once
from embedder.text_settings import TextSettings

Array = NDArray[np.float32]
TEXTS = [
    "the cat sat",
    "",
    "dog",
    "The dogs ran on the mat",
    "a q a",
    "你 é",
    "<pad> the </s> [SEP]",
    "cat " * 50,
    "dog",
]
HARD = [
    "",
    " ",
    "\x00\x01\x1b[0m\r\n",
    "\ud800",
    "ok \udfff end",
    "😀👩‍👩‍👧",
    "a",
    "word " * 20_000,
    "a" * 100_000,
    " " * 50_000 + "end",
]


def save_bge(folder: Path) -> Path:
    return save(
        folder,
        bert(),
        BERT,
        modules=modules("Transformer", "Pooling", "Normalize"),
        **{"1_Pooling__config": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}},
        sentence_bert_config={"max_seq_length": 24, "do_lower_case": True},
    )


def save_e5(folder: Path) -> Path:
    return save(
        folder,
        bert(hidden_act="gelu_new"),
        BERT,
        modules=modules("Transformer", "Pooling"),
        **{"1_Pooling__config": {"pooling_mode": "mean"}},
        config_sentence_transformers={"prompts": {"query": "query: ", "passage": "passage: "}},
    )


def save_xlmr(folder: Path) -> Path:
    config = XLMRobertaConfig(vocab_size=20, max_position_embeddings=34, pad_token_id=1, type_vocab_size=1, **SIZES)
    return save(folder, XLMRobertaModel(config), ROBERTA)


def save_distilbert(folder: Path) -> Path:
    config = DistilBertConfig(vocab_size=20, max_position_embeddings=40, dim=32, n_layers=2, n_heads=4, hidden_dim=64)
    pooling = {"1_Pooling__config": {"pooling_mode_max_tokens": True}}
    return save(folder, DistilBertModel(config), BERT, modules=modules("Transformer", "Pooling"), **pooling)


def save_gpt2(folder: Path) -> Path:
    config = GPT2Config(vocab_size=20, n_positions=40, n_embd=32, n_layer=2, n_head=4)
    pooling = {"1_Pooling__config": {"pooling_mode_lasttoken": True}}
    return save(folder, GPT2Model(config), BERT, modules=modules("Transformer", "Pooling"), **pooling)


def save_t5(folder: Path) -> Path:
    config = T5Config(vocab_size=20, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return save(folder, T5Model(config), BERT)


POOLINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "max": lambda states: states.amax(0),
    "last": lambda states: states[-1],
}
LAYOUTS: dict[str, tuple[Callable[[Path], Path], str, int, str]] = {
    "bge": (save_bge, "cls", 24, "onednn"),
    "e5": (save_e5, "mean", 40, "onednn"),
    "xlmr": (save_xlmr, "mean", 32, "onednn"),
    "distilbert": (save_distilbert, "max", 40, "transformers"),
    "gpt2": (save_gpt2, "last", 40, "transformers"),
    "t5": (save_t5, "mean", 1000, "transformers"),
}
"""Name to: how to save one, its pooling, its longest text, how it should run where oneDNN is."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    saved: dict[str, Path] = {}
    for name, (make, *_) in LAYOUTS.items():
        torch.manual_seed(7)
        saved[name] = make(tmp_path_factory.mktemp(name))
    return saved


@pytest.fixture(scope="module")
def encoders(folders: dict[str, Path]) -> dict[str, TextEncoder]:
    return {name: TextEncoder.from_pretrained(str(folder)) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder.from_pretrained("minilm")


@torch.no_grad()
def slow_vectors(folder: Path, texts: list[str], pooling: str, max_tokens: int) -> Array:
    """The oracle: transformers, one text at a time."""
    words = AutoTokenizer.from_pretrained(folder)
    model = T5EncoderModel.from_pretrained(folder) if "t5" in folder.name else AutoModel.from_pretrained(folder)
    rows: list[Array] = []
    for text in texts:
        plain = {"truncation": True, "max_length": max_tokens, "split_special_tokens": True}
        ids = words(text, return_tensors="pt", **plain)["input_ids"]
        states = model.eval()(input_ids=ids).last_hidden_state[0]
        rows.append(F.normalize(POOLINGS[pooling](states), dim=0).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_equals_transformers(
    name: str, folders: dict[str, Path], encoders: dict[str, TextEncoder]
) -> None:
    _, pooling, max_tokens, kernel = LAYOUTS[name]
    encoder = encoders[name]
    prefixed = [f"passage: {text}" if name == "e5" else text for text in TEXTS]
    np.testing.assert_allclose(
        encoder.encode(TEXTS), slow_vectors(folders[name], prefixed, pooling, max_tokens), atol=2e-5
    )
    wanted = projection_class(torch.empty(0)).kernel if kernel == "onednn" else kernel
    assert encoder.kernel == f"{wanted} float32"
    assert encoder.max_tokens == max_tokens
    assert encoder.width == 32


def test_minilm_equals_transformers(minilm: TextEncoder) -> None:
    texts = ["A man is playing a guitar.", "The stock market fell sharply today.", "", "x", "naïve 你好 😀 " * 100]
    found = minilm.encode(texts)
    np.testing.assert_allclose(found, slow_vectors(model_folder("minilm"), texts, "mean", 256), atol=2e-6)
    assert (minilm.width, minilm.max_tokens) == (384, 256)


def test_a_query_has_its_own_prefix(folders: dict[str, Path], encoders: dict[str, TextEncoder]) -> None:
    found = encoders["e5"].encode(TEXTS, is_query=True)
    prefixed = [f"query: {text}" for text in TEXTS]
    np.testing.assert_allclose(found, slow_vectors(folders["e5"], prefixed, "mean", 40), atol=2e-5)


@pytest.mark.skipif(not has_bfloat16(), reason="the processor does not multiply bfloat16")
@pytest.mark.parametrize("name", ["minilm", "bge", "xlmr", "distilbert"])
def test_bfloat16_is_near_float32(name: str, folders: dict[str, Path]) -> None:
    where = "minilm" if name == "minilm" else str(folders[name])
    exact, fast = TextEncoder.from_pretrained(where), TextEncoder.from_pretrained(where, dtype="bfloat16")
    assert fast.kernel.endswith(" bfloat16")
    assert fast.sha256 != exact.sha256
    cosines = (exact.encode(TEXTS) * fast.encode(TEXTS)).sum(1)
    assert cosines.min() > (0.9995 if name == "minilm" else 0.99)  # the tiny models' weights are drawn large


def test_float32_is_what_a_processor_without_bfloat16_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert TextEncoder.from_pretrained("minilm", dtype="bfloat16").kernel.endswith(" float32")


def test_another_dtype_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="float16 is for GPUs"):
        TextEncoder.from_pretrained("minilm", dtype="float16")
    with pytest.raises(UsageError, match="dtype must be one of"):
        TextEncoder.from_pretrained("minilm", dtype="int9")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_onednn_equals_plain_torch(dtype: torch.dtype) -> None:
    if projection_class(torch.empty(0, dtype=dtype)) is not PackedProjection:
        pytest.skip("this torch has no oneDNN operators for it")
    torch.manual_seed(3)
    model = bert().eval()
    runs = [torch.randint(20, (3, 4)), torch.randint(20, (17, 2)), torch.randint(20, (40, 1))]
    found, wanted = (PackedBert(model, TextSettings(), dtype, kind)(runs) for kind in (PackedProjection, Projection))
    torch.testing.assert_close(found, wanted, atol=1e-5 if dtype == torch.float32 else 0.1, rtol=0.01)


@pytest.mark.parametrize("length", [9, 120])
@pytest.mark.parametrize("scale", [1.0, 15.0, 300.0])
@pytest.mark.parametrize("shift", [0.0, 200.0, -200.0])
def test_attention_keeps_to_softmax_when_scores_leave_the_range_of_powers(
    length: int, scale: float, shift: float
) -> None:
    torch.manual_seed(5)
    heads = torch.randn(length, 6, 3, 8) * torch.tensor([scale, 1.0, 1.0])[:, None]
    heads[..., 0, 0], heads[..., 1, 0] = 1, shift
    q, k, v = heads.double().permute(2, 1, 0, 3)
    wanted = ((q @ k.mT * np.log(2)).softmax(-1) @ v).transpose(0, 1)
    for count in (length, 1):  # all tokens, or only the first
        for way in (attend, attend_at_once):
            out = torch.empty(count, 2, 3, 8)
            way(heads.unflatten(1, (2, 3)), out)
            torch.testing.assert_close(out.flatten(1, 2).double(), wanted[:count], atol=2e-4, rtol=1e-3)


def test_hard_texts_give_unit_vectors(encoders: dict[str, TextEncoder], minilm: TextEncoder) -> None:
    for encoder in (*encoders.values(), minilm):
        assert_unit(encoder.encode(HARD))


def test_a_long_text_is_cut_where_the_tokenizer_cuts_it(minilm: TextEncoder) -> None:
    texts = ["word " * 20_000, " " * 50_000 + "the end", "a" * 100_000, "你好" * 30_000]
    found = minilm.encode(texts)
    np.testing.assert_allclose(found, slow_vectors(model_folder("minilm"), texts, "mean", 256), atol=2e-6)
    assert minilm.token_counts(texts) == [256, 4, 3, 256]


def test_lone_surrogates_are_replaced_and_pairs_joined(minilm: TextEncoder) -> None:
    found = minilm.encode(["a \ud800 b", "smile \ud83d\ude00"])
    np.testing.assert_allclose(found, minilm.encode(["a \ufffd b", "smile 😀"]), atol=1e-6)


def test_no_texts_give_no_rows(minilm: TextEncoder) -> None:
    assert minilm.encode([]).shape == (0, 384)
    assert minilm.token_counts([]) == []


def test_equal_texts_get_equal_rows(encoders: dict[str, TextEncoder]) -> None:
    found = encoders["bge"].encode(["the cat", "dog", "the cat", "dog", "the cat"])
    np.testing.assert_array_equal(found, found[[0, 1, 0, 1, 0]])


def test_how_many_texts_are_done_is_told_batch_by_batch(
    encoders: dict[str, TextEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedder.encoder.TOKENS_PER_BATCH", 8)
    told: list[int] = []
    name, encoder = next(iter(encoders.items()))
    encoder.encode_counted(["a b c", "d", "e f g h", "d"], tell=told.append)
    assert (sum(told), len(told) > 1) == (3, True), name


def test_chunks_and_tokenizer_calls_leave_no_trace(
    encoders: dict[str, TextEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = encoders["xlmr"].encode(TEXTS)
    monkeypatch.setattr(encoder_module, "TEXTS_PER_CHUNK", 3)
    monkeypatch.setattr(encoder_module, "TEXTS_PER_TOKENIZER_CALL", 2)
    monkeypatch.setattr(encoder_module, "TOKENS_PER_BATCH", 8)
    np.testing.assert_allclose(encoders["xlmr"].encode(TEXTS), wanted, atol=2e-5)


def test_token_counts_are_those_of_the_tokenizer(folders: dict[str, Path], encoders: dict[str, TextEncoder]) -> None:
    words = AutoTokenizer.from_pretrained(folders["e5"])
    plain = {"truncation": True, "max_length": 40, "split_special_tokens": True}
    wanted = [len(words(f"passage: {text}", **plain)["input_ids"]) for text in TEXTS]
    assert encoders["e5"].token_counts(TEXTS) == wanted


def test_the_fingerprint_tells_encoders_apart(encoders: dict[str, TextEncoder], folders: dict[str, Path]) -> None:
    assert len({encoder.sha256 for encoder in encoders.values()}) == len(encoders)
    assert TextEncoder.from_pretrained(str(folders["e5"])).sha256 == encoders["e5"].sha256
    path = folders["e5"] / "config_sentence_transformers.json"
    before = path.read_text()
    path.write_text(before.replace("query: ", "ask: "))
    assert TextEncoder.from_pretrained(str(folders["e5"])).sha256 != encoders["e5"].sha256
    path.write_text(before)


def test_a_folder_that_wants_more_than_pooling_is_refused(tmp_path: Path) -> None:
    save(tmp_path, bert(), BERT, modules=modules("Transformer", "Pooling", "Dense"))
    with pytest.raises(PplugError, match="Dense"):
        TextEncoder.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("pooling", [{"pooling_mode": ["cls", "mean"]}, {"pooling_mode": "weightedmean"}])
def test_an_unknown_pooling_is_refused(pooling: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path, bert(), BERT, modules=modules("Transformer", "Pooling"), **{"1_Pooling__config": pooling})
    with pytest.raises(PplugError, match="pooling"):
        TextEncoder.from_pretrained(str(tmp_path))


def test_an_encoder_of_t5_that_was_saved_alone_equals_transformers(tmp_path: Path) -> None:
    config = T5Config(vocab_size=20, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    folder = save(tmp_path / "t5", T5EncoderModel(config), BERT)
    found = TextEncoder.from_pretrained(str(folder)).encode(TEXTS)
    np.testing.assert_allclose(found, slow_vectors(folder, TEXTS, "mean", 1000), atol=2e-5)


def test_xlnet_has_no_longest_text(tmp_path: Path) -> None:
    config = XLNetConfig(vocab_size=20, d_model=32, n_layer=2, n_head=4, d_inner=64)
    encoder = TextEncoder.from_pretrained(str(save(tmp_path, XLNetModel(config), BERT)))
    assert encoder.max_tokens == 1000
    np.testing.assert_allclose(encoder.encode(TEXTS), slow_vectors(tmp_path, TEXTS, "mean", 1000), atol=2e-5)


def test_the_oldest_layout_keeps_the_transformer_in_a_folder_of_its_own(tmp_path: Path) -> None:
    inner = save(tmp_path / "0_Transformer", bert(), BERT)
    listed = [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}, modules("Pooling")[0]]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    found = TextEncoder.from_pretrained(str(tmp_path)).encode(TEXTS)
    np.testing.assert_allclose(found, slow_vectors(inner, TEXTS, "mean", 40), atol=2e-5)


def test_a_byte_level_tokenizer_lower_cases_too(tmp_path: Path) -> None:
    save_model(tmp_path, tiny_bert(3), is_chat=False)
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    found = TextEncoder.from_pretrained(str(tmp_path)).encode(["World NEWS", "world news"])
    np.testing.assert_array_equal(found[0], found[1])


def test_a_model_in_which_padding_changes_a_text_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = FNetConfig(vocab_size=20, hidden_size=32, num_hidden_layers=2, intermediate_size=64)
    save(tmp_path, FNetModel(config), BERT)
    with pytest.raises(PplugError, match="does not tell padding from text"):
        TextEncoder.from_pretrained(str(tmp_path))


def test_an_architecture_without_a_text_encoder_is_one_short_line(tmp_path: Path) -> None:
    config = BartConfig(vocab_size=20, d_model=32, encoder_layers=1, decoder_layers=1, max_position_embeddings=40)
    save(tmp_path, BartModel(config), BERT)
    with pytest.raises(PplugError, match=r"\(transformers knows no text encoder of its architecture\)"):
        TextEncoder.from_pretrained(str(tmp_path))


def test_weights_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    save(tmp_path, bert(), BERT)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(PplugError, match="lacks 16 weights"):
        TextEncoder.from_pretrained(str(tmp_path))


def test_code_of_a_model_is_never_run(tmp_path: Path) -> None:
    save(tmp_path, bert(), BERT)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | {
        "model_type": "new",
        "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"},
    }
    path.write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(PplugError, match="cannot be loaded as text encoder"):
        TextEncoder.from_pretrained(str(tmp_path))


def assert_unit(vectors: Array) -> None:
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


words = st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(texts=st.lists(words, min_size=1, max_size=12), data=st.data())
@pytest.mark.parametrize("name", ["bge", "xlmr", "distilbert"])
def test_order_and_company_of_a_text_are_irrelevant(
    name: str, encoders: dict[str, TextEncoder], texts: list[str], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(texts))))
    encoder = encoders[name]
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=2e-5)
    np.testing.assert_allclose(encoder.encode([texts[index] for index in order]), together[list(order)], atol=2e-5)


@quick
@given(texts=st.lists(st.text(st.characters()), max_size=5))
def test_any_text_gives_a_unit_vector(minilm: TextEncoder, texts: list[str]) -> None:
    assert_unit(minilm.encode(texts))


@given(lengths=st.lists(st.integers(1, 4000), max_size=60))
def test_batches_hold_every_text_once_and_keep_to_the_budget(lengths: list[int]) -> None:
    batches = [batch.tolist() for batch in token_batches(lengths)]
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[index] for index in batch) <= encoder_module.TOKENS_PER_BATCH
