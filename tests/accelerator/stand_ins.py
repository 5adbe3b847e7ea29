"""Models of real shapes with drawn weights, made here from their configurations, and texts for them."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rows import Setting
from tiny_models import DECODER_SIZES, tiny_tokenizer
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaConfig, PreTrainedModel, Qwen3Config

from embedder import TextEncoder
from embedder.devices import Dtype
from llm_jobs import FrozenLLM
from llm_jobs.quantised import quantise

WORDS: Final = ("which", "news", "category", "does", "article", "politics", "world", "arts", "sports", "science")

ENCODERS: Final[dict[str, dict[str, int]]] = {
    "MiniLM": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
"""The encoders of all-MiniLM-L6-v2 and of bge-large."""


def llama_1b() -> Any:
    """The shape of Llama 3.2 1B."""
    return LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        **SPECIAL,
    )


def qwen_8b() -> Any:
    """The shape of Qwen 3 8B."""
    return Qwen3Config(
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        **SPECIAL,
    )


SPECIAL: Final = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLMS: Final[dict[str, Callable[[], Any]]] = {"Llama 3.2 1B": llama_1b, "Qwen 3 8B": qwen_8b}


def text_encoder(name: str, setting: Setting, device: str, dtype: Dtype) -> TextEncoder:
    """Make an encoder of a real shape; the same weights each time."""
    sizes = ENCODERS[name]
    if setting.is_tiny:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=300, pad_token_id=0, initializer_range=0.04, **sizes), False)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        return TextEncoder.from_pretrained(folder, dtype, device=device)


def drawn_llm(config: Any, device: str, dtype: torch.dtype, weights: str = "") -> FrozenLLM:
    """Make an LLM with drawn weights, on the device at once; on one device the same each time."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    return llm_of(model, weights)


def llm_of(model: PreTrainedModel, weights: str = "") -> FrozenLLM:
    """Put a model into the default engine."""
    if weights:
        quantise(model, weights)
    with tempfile.TemporaryDirectory() as folder:
        return FrozenLLM(model, tiny_tokenizer(is_chat=False), Path(folder))


def llm_config(name: str, setting: Setting) -> Any:
    """The configuration of a real LLM, or a tiny one of its class."""
    if not setting.is_tiny:
        return LLMS[name]()
    kind = LlamaConfig if name.startswith("Llama") else Qwen3Config
    return kind(**DECODER_SIZES, head_dim=8, max_position_embeddings=512)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write a model with a tokenizer as a folder to be loaded from."""
    model.save_pretrained(folder)
    tiny_tokenizer(is_chat=False).save_pretrained(folder)


def texts(count: int, words: int, seed: int = 0) -> list[str]:
    """Texts of very different lengths, with so many words on average."""
    draw = np.random.default_rng(seed)
    lengths = np.clip(draw.lognormal(np.log(words), 0.6, count), 1, 5 * words).astype(int)
    return [" ".join(draw.choice(WORDS, length)) for length in lengths]
