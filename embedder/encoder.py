"""Texts to unit vectors, as fast as the processor multiplies matrices.

    texts ─▶ distinct ones ─▶ tokens ─▶ ordered by length ─▶ batches ─▶ model and pooling ─▶ unit norm

BERT and XLM-RoBERTa families run packed (packed_bert.py), any other architecture through transformers with padding.

Threads: `torch.set_num_threads` of the caller counts. The OpenMP of torch's wheels lets waiting threads spin, so that a
second thread is slower than none while another process holds a core: set `OMP_WAIT_POLICY=PASSIVE` before torch is
imported, as pplug's command line does.
"""

import ctypes
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from tokenizers import normalizers
from torch import Tensor

from embedder.errors import PplugError, UsageError
from embedder.models import fingerprint, model_folder
from embedder.packed_bert import PackedBert, can_pack, has_onednn
from embedder.pooling import TextSettings, pool, read_text_settings

Dtype = Literal["float32", "bfloat16"]

TOKENS_PER_BATCH = 2048
"""Tokens that go through the model together: more leave the processor's cache, fewer pay for more calls."""

TEXTS_PER_CHUNK = 8192
"""Texts held as tokens at a time: bounds memory, and is enough for long runs of equal lengths."""

TEXTS_PER_TOKENIZER_CALL = 256
"""The tokenizer keeps about 100 bytes per token of whole texts until the call ends."""

BATCHES_PER_TRIM = 32
"""After so many batches, about a second's, freed memory goes back to the system; that takes 5 to 20 ms."""

CHARACTERS_PER_TOKEN = 16
"""Only this many characters per token of `max_tokens` are tokenised when they turn out to fill the model."""

PROBE = "Héllo,  WORLD!\n\tnaïve 你好 😀 [SEP]</s> 0.5% https://example.org/a_b?c=d"
"""What the tokenizer makes of it is part of the fingerprint."""


class TokenModel(Protocol):
    """Runs of equally long texts, (tokens, texts) int64 each ─▶ (all texts, width) float32, pooled."""

    def __call__(self, runs: Sequence[Tensor]) -> Tensor: ...


class TextEncoder:
    """Encode texts with a frozen encoder; safe to share between threads.

    Attributes:
        width: length of a vector.
        max_tokens: longest text; what lies beyond is cut.
        sha256: fingerprint of the weights, the tokenizer and every setting that changes a vector, precision included.
        kernel: how it is computed, e.g. `onednn bfloat16`; says float32 where the processor has no bfloat16.
    """

    def __init__(self, folder: Path, settings: TextSettings, precision: torch.dtype) -> None:
        self._tokenizer, model = _load(folder, precision)
        limits = (settings.max_tokens, self._tokenizer.model_max_length, _position_count(model))
        self.max_tokens: int = min(limit for limit in limits if limit)
        self.width: int = model.config.hidden_size
        self._settings = settings
        if settings.is_lower_case:
            backend = self._tokenizer.backend_tokenizer
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), backend.normalizer])
        self._pad_id: int = self._tokenizer.pad_token_id or 0
        self._model: TokenModel
        if can_pack(model.config):
            is_onednn = has_onednn(precision)
            kernel, self._model = "onednn" if is_onednn else "torch", PackedBert(model, settings, precision, is_onednn)
        else:
            kernel, self._model = "transformers", PaddedModel(model, settings, self._pad_id)
        name = str(precision).removeprefix("torch.")
        self.kernel = f"{kernel} {name}"
        facts = {"precision": name, "max_tokens": self.max_tokens, "probe": self._token_ids([PROBE])}
        self.sha256 = fingerprint(folder, **asdict(settings) | facts)

    @classmethod
    def from_pretrained(cls, name: str, dtype: Dtype = "float32", cache: Path | None = None) -> Self:
        """Load an encoder by alias, folder or hub id (see `models.model_folder`).

        Args:
            name: which model.
            dtype: `bfloat16` is about twice as fast (cosine to float32 above .9999 on average) where the processor
                multiplies it, and means float32 elsewhere.
            cache: folder of exported models.

        Raises:
            InputMissing: there is no such model here.
            PplugError: the folder holds no encoder that can be run.
        """
        if dtype not in ("float32", "bfloat16"):
            raise UsageError(f"encoder dtype is {dtype!r}: choose float32 or bfloat16")
        folder = model_folder(name, cache)
        settings = read_text_settings(folder)
        precision = torch.bfloat16 if dtype == "bfloat16" and has_bfloat16() else torch.float32
        return cls(model_folder(str(folder / settings.transformer)), settings, precision)

    def encode(self, texts: Sequence[str], is_query: bool = False) -> NDArray[np.float32]:
        """Encode texts, equal ones once.

        Args:
            texts: any strings; what is not valid Unicode is replaced by U+FFFD.
            is_query: put the model's query prefix before each text instead of its text prefix.

        Returns:
            (len(texts), width) float32 rows of unit norm, in the order of the texts.
        """
        return self.encode_counted(texts, is_query)[0]

    def encode_counted(self, texts: Sequence[str], is_query: bool = False) -> tuple[NDArray[np.float32], int]:
        """Like `encode`, and how many tokens went through the model."""
        token_count = 0
        first: dict[str, int] = {}
        source = np.fromiter((first.setdefault(text, row) for row, text in enumerate(texts)), np.int64, len(texts))
        rows = list(first.values())
        vectors = np.empty((len(texts), self.width), np.float32)
        for start in range(0, len(rows), TEXTS_PER_CHUNK):
            chunk = rows[start : start + TEXTS_PER_CHUNK]
            tokens = list(self._tokens([texts[row] for row in chunk], is_query))
            lengths = [len(ids) for ids in tokens]
            token_count += sum(lengths)
            for number, batch in enumerate(token_batches(lengths)):
                if number % BATCHES_PER_TRIM == 0:
                    return_free_memory()
                runs = groupby((tokens[index] for index in batch), len)
                pooled = self._model([torch.from_numpy(np.stack(list(run), 1)) for _, run in runs])
                vectors[np.array(chunk)[batch]] = F.normalize(pooled, dim=-1).numpy()
        copies = np.flatnonzero(source != np.arange(len(texts)))
        vectors[copies] = vectors[source[copies]]
        return vectors, token_count

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens the model sees of each text: special tokens and text prefix included, after the cut."""
        return [len(ids) for ids in self._tokens(texts, is_query=False)]

    def _tokens(self, texts: Sequence[str], is_query: bool) -> Iterator[NDArray[np.int64]]:
        prefix = self._settings.query_prefix if is_query else self._settings.text_prefix
        head = CHARACTERS_PER_TOKEN * self.max_tokens
        for start in range(0, len(texts), TEXTS_PER_TOKENIZER_CALL):
            part = list(texts[start : start + TEXTS_PER_TOKENIZER_CALL])
            for text, ids in zip(part, self._token_ids([prefix + text[:head] for text in part]), strict=True):
                is_whole = len(text) <= head or len(ids) == self.max_tokens
                yield np.array(ids if is_whole else self._token_ids([prefix + text])[0], np.int64)

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        clean = [valid_unicode(text) for text in texts]
        encoded = self._tokenizer(clean, truncation=True, max_length=self.max_tokens, return_attention_mask=False)
        return [ids or [self._pad_id] for ids in encoded["input_ids"]]  # some tokenizers make nothing of ""


class PaddedModel:
    """Any transformers encoder, the texts of a batch padded to the longest; see `TokenModel`."""

    def __init__(self, model: Any, settings: TextSettings, pad_id: int) -> None:
        self._model, self._pooling, self._pad_id = model, settings.pooling, pad_id

    @torch.inference_mode()
    def __call__(self, runs: Sequence[Tensor]) -> Tensor:
        texts = [text for run in runs for text in run.T]
        padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=self._pad_id)  # (n, l)
        lengths = torch.tensor([len(text) for text in texts])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        states = self._model(input_ids=padded, attention_mask=mask).last_hidden_state  # (n, l, d)
        return torch.cat([pool(row[:length, None], self._pooling) for row, length in zip(states, lengths, strict=True)])


def token_batches(lengths: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """Indices of texts, shortest first, in batches of at most TOKENS_PER_BATCH tokens (or one text)."""
    order = np.argsort(lengths, kind="stable")
    start, tokens = 0, 0
    for end, index in enumerate(order):
        tokens += lengths[index]
        if tokens > TOKENS_PER_BATCH and start < end:
            yield order[start:end]
            start, tokens = end, lengths[index]
    if len(order):
        yield order[start:]


def return_free_memory() -> None:
    """Give back what glibc keeps of freed tensors: batches of many shapes leave holes, 300 MB after 4,000 texts."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def valid_unicode(text: str) -> str:
    """The text with each lone surrogate replaced by U+FFFD; surrogate pairs become the character they stand for."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; emulation would be slower than float32."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Tokenizer and model; float32 when it will be packed, as the packed model rounds on its own."""
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        auto = AutoModelForTextEncoding if getattr(config, "is_encoder_decoder", False) else AutoModel
        options |= {"dtype": torch.float32 if can_pack(config) else dtype, "use_safetensors": True}
        model, report = auto.from_pretrained(folder, config=config, output_loading_info=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # RuntimeError: weights of another shape
        reason = " ".join(str(error).split())[:200]
        raise PplugError(f"model {folder} cannot be loaded as an encoder ({reason}): choose another model") from error
    if missing := sorted(key for key in report["missing_keys"] if "pooler" not in key):
        raise PplugError(f"model {folder} lacks {len(missing)} weights ({missing[0]} ...): choose another model")
    return tokenizer, model.eval()


def _position_count(model: Any) -> int | None:
    """How many tokens a text may have; RoBERTa's positions begin behind those of padding."""
    count = getattr(model.config, "max_position_embeddings", None)
    padding = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    return count if count is None or padding is None else count - padding - 1
