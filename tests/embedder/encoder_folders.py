"""Tiny real encoders in folders, as sentence-transformers saves them."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "q", "##s", "a", "##a", ":", "é", "你", "passage", "query"]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.3,  # large, so that attention differs from a plain mean
}


def tokenizer(special: list[str]) -> PreTrainedTokenizerFast:
    """Word pieces; special tokens are beginning, end, padding and unknown in the order of their ids."""
    begin, end, pad, unknown = sorted(
        special, key=("[CLS]", "<s>", "[SEP]", "</s>", "[PAD]", "<pad>", "[UNK]", "<unk>").index
    )
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing((end, vocabulary[end]), (begin, vocabulary[begin]))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, cls_token=begin, sep_token=end, pad_token=pad, unk_token=unknown, model_max_length=1000
    )


BERT = tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
ROBERTA = tokenizer(["<s>", "<pad>", "</s>", "<unk>"])


def save(folder: Path, model: PreTrainedModel, words: PreTrainedTokenizerFast, **files: Any) -> Path:
    """A folder as sentence-transformers saves it: `files` are its JSON files, "/" written as "__"."""
    model.eval().save_pretrained(folder)
    words.save_pretrained(folder)
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def modules(*names: str) -> list[dict[str, Any]]:
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2_Dense"}
    return [{"idx": 0, "path": paths[name], "type": f"sentence_transformers.models.{name}"} for name in names]


def bert(**changes: Any) -> BertModel:
    return BertModel(BertConfig(vocab_size=20, max_position_embeddings=40, **SIZES | changes))
