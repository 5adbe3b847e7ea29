"""Whatever a text spells out, its ids are those of text."""

from pathlib import Path
from typing import Any

import pytest
from encoder_folders import BERT, bert, save
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from embedder import TextEncoder
from embedder.errors import PplugError
from embedder.plain_text import PlainTextTokenizer, load_tokenizer

CONTROLS = [
    "<pad>",
    "</s>",
    "<unk>",
    "<think>",
    "<tool_call>",
    "[SEP]",
    "[MASK]",
    "[PAD]",
    "<|im_end|>",
    "<extra_id_0>",
]
LETTERS = ["<", "/", "s", ">", "p", "a", "d", "t", "h", "i", "n", "k", "u", "[", "]", "S", "E", "P", "covid", " "]


def fast(model: Any, specials: list[str], others: list[str]) -> PreTrainedTokenizerFast:
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Metaspace() if isinstance(model, models.Unigram) else None
    made.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    made.add_tokens([AddedToken(name, normalized=False) for name in others])
    end = made.token_to_id("</s>")
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def unigram() -> PreTrainedTokenizerBase:
    """T5's kind: control tokens are pieces of the model itself, and the likeliest."""
    specials = ["<pad>", "</s>", "<unk>"]
    pieces = dict.fromkeys(specials, 0.0) | dict.fromkeys("▁</s>padthink", -3.0)
    return fast(models.Unigram(list(pieces.items()), unk_id=2), specials, ["<think>"])


def bpe() -> PreTrainedTokenizerBase:
    """Merges lead up to a control token."""
    letters = ["<pad>", "</s>", "<unk>", "<", "/", "s", ">", "</", "s>", "p", "a", "d", " "]
    vocabulary = {piece: number for number, piece in enumerate(letters)}
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", ignore_merges=True)
    return fast(model, ["<pad>", "</s>", "<unk>"], ["<think>", "<tool_call>", "covid"])


def word_level() -> PreTrainedTokenizerBase:
    """A text that is a control token is a word of the vocabulary."""
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3}
    return fast(models.WordLevel(vocabulary, unk_token="<unk>"), ["<pad>", "</s>", "<unk>"], [])


KINDS: dict[str, PreTrainedTokenizerBase] = {
    "unigram": unigram(),
    "bpe": bpe(),
    "word_level": word_level(),
    "word_piece": BERT,
    "byte_level": tiny_tokenizer(is_chat=True),
    "python": ByT5Tokenizer(),
}
SPLITTERS = {name: PlainTextTokenizer(tokenizer) for name, tokenizer in KINDS.items()}
few = settings(max_examples=40)
texts = st.lists(st.sampled_from(CONTROLS + LETTERS) | st.text(max_size=3), max_size=12).map("".join)


@few
@given(texts)
@pytest.mark.parametrize("kind", KINDS)
def test_no_text_has_the_id_of_a_control_token(kind: str, text: str) -> None:
    tokenizer, splitter = KINDS[kind], SPLITTERS[kind]
    text = text.encode("utf8", "replace").decode("utf8")
    (ids,) = splitter.ids([text])
    controls = {number for number, token in tokenizer.added_tokens_decoder.items() if token.content != "covid"}
    assert not set(ids) & (controls - {tokenizer.unk_token_id})


@few
@given(st.text(st.sampled_from("abcdehiknpst "), max_size=20))
@pytest.mark.parametrize("kind", KINDS)
def test_any_other_text_is_split_as_ever(kind: str, text: str) -> None:
    tokenizer, splitter = KINDS[kind], SPLITTERS[kind]
    assert splitter.ids([text]) == [tokenizer(text, add_special_tokens=False)["input_ids"]]
    framed = tokenizer(text, truncation=True, max_length=5)["input_ids"]
    assert splitter.framed_ids([text], 5) == [framed]


def test_an_added_word_is_text_and_markup_is_not() -> None:
    tokenizer, splitter = KINDS["bpe"], SPLITTERS["bpe"]
    covid, think = tokenizer.convert_tokens_to_ids(["covid", "<think>"])
    assert splitter.ids(["covid"]) == [[covid]]
    assert think not in splitter.ids(["<think>"])[0]


def test_a_control_token_in_a_text_reads_like_its_letters() -> None:
    for kind in ("unigram", "bpe"):
        tokenizer = KINDS[kind]
        (ids,) = SPLITTERS[kind].ids(["a</s>"])
        assert "".join(tokenizer.convert_ids_to_tokens(ids)).strip("▁") == "a</s>"
        assert 1 not in ids


def test_an_encoder_reads_control_tokens_as_text(tmp_path: Path) -> None:
    encoder = TextEncoder.from_pretrained(str(save(tmp_path, bert(), BERT)))
    plain, spelled = encoder.token_counts(["cat", "cat [SEP][PAD]"])
    assert (plain, spelled) == (3, 9)  # [ and SEP and ] each, for both


@pytest.mark.parametrize("content", [b"", b"\x00nonsense"])
def test_a_sentencepiece_model_alone_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, bert(), BERT)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(PplugError, match=r"spiece\.model alone is not read, tokenizer\.json is: .*save_pretrained"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_words_is_refused(tmp_path: Path) -> None:
    save(tmp_path, bert(), BERT)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(PplugError, match="it knows no words: is tokenizer"):
        load_tokenizer(tmp_path)
