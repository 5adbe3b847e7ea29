"""Tiny real models with a tiny real tokenizer, saved as folders like downloaded ones."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CORPUS = (
    "which news category does this article belong to",
    "politics world news arts & culture sports science",
    "é 你好",
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


DECODER_SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.1,
}
"""A causal LLM that fits the tokenizer."""


def tiny_tokenizer(*, is_chat: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens; without chat it is T5's kind, which ends every text with an end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<pad>")
    if is_chat:
        fast.bos_token = "<|im_start|>"
        fast.chat_template = TEMPLATE
    return fast


def tiny_llama(seed: int, context: int) -> LlamaForCausalLM:
    """A Llama two layers deep and 32 wide, with two query heads for each key head."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**DECODER_SIZES, max_position_embeddings=context))


def tiny_bert(seed: int) -> BertModel:
    """A text encoder two layers deep and 32 wide."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    return BertModel(config, add_pooling_layer=False)


def save_model(folder: Path, model: PreTrainedModel, *, is_chat: bool) -> Path:
    """Write a model and its tokenizer as a Hugging Face folder."""
    model.eval().save_pretrained(folder)
    tiny_tokenizer(is_chat=is_chat).save_pretrained(folder)
    return folder
