"""Texts to unit vectors, as fast as the processor multiplies matrices.

    texts ─▶ distinct ─▶ tokenise ─▶ order by length ─▶ batches of equal token count ─▶ model ─▶ pool ─▶ unit norm

BERT and XLM-RoBERTa families run packed (packed_bert.py); any other architecture through transformers with padding.

Threads: the caller chooses them with `torch.set_num_threads`. libgomp's default is to spin at barriers, which makes a
second thread slower than none on a busy machine; `OMP_WAIT_POLICY=PASSIVE` must be set before torch is imported, and
pplug's command line does that.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .errors import PplugError, UsageError
from .models import fingerprint, model_folder
from .packed_bert import PackedBert, can_pack, has_onednn
from .pooling import Pooling, TextSettings, pool, read_text_settings

Dtype = Literal["float32", "bfloat16"]

TOKENS_PER_BATCH = 512
"""Tokens that go through a layer at once: their states stay in the processor's cache."""

TEXTS_PER_CHUNK = 8192
"""Texts tokenised at once: bounds memory, and is enough for long runs of equal lengths."""


class TokenModel(Protocol):
    """Runs of equally long texts, (tokens, texts) int64 each ─▶ (all texts, width) float32, pooled."""

    def __call__(self, runs: Sequence[Tensor]) -> Tensor: ...


class TextEncoder:
    """Encode texts with a frozen encoder.

    Attributes:
        width: length of a vector.
        max_tokens: longest text; what lies beyond is cut.
        sha256: fingerprint of the weights, the tokenizer and every setting that changes a vector.
        kernel: how it is computed, e.g. `onednn bfloat16`; says float32 where the processor has no bfloat16.
    """

    def __init__(
        self, tokenizer: Any, model: TokenModel, settings: TextSettings, *, width: int, max_tokens: int, sha256: str, kernel: str
    ) -> None:
        self.width, self.max_tokens, self.sha256, self.kernel = width, max_tokens, sha256, kernel
        self._tokenizer, self._model, self._settings = tokenizer, model, settings

    @classmethod
    def from_pretrained(cls, name: str, dtype: Dtype = "float32", cache: Path | None = None) -> Self:
        """Load an encoder by alias, folder or hub id (see `models.model_folder`).

        Args:
            name: which model.
            dtype: `bfloat16` is twice as fast (cosine to float32 about .9999) on processors that multiply it, and means
                float32 on others.
            cache: folder of exported models.
        """
        if dtype not in ("float32", "bfloat16"):
            raise UsageError(f"encoder dtype is {dtype!r}: choose float32 or bfloat16")
        root = model_folder(name, cache)
        settings = read_text_settings(root)
        folder = model_folder(str(root / settings.transformer))
        used = torch.bfloat16 if dtype == "bfloat16" and has_bfloat16() else torch.float32
        tokenizer, model = _load(folder, used)
        config = model.config
        max_tokens = min(settings.max_tokens or 1 << 30, _position_count(config), tokenizer.model_max_length)
        kernel, token_model = "transformers", PaddedModel(model, settings.pooling, tokenizer.pad_token_id or 0)
        if can_pack(config):
            is_onednn = has_onednn(used)
            kernel = "onednn" if is_onednn else "torch"
            token_model = PackedBert(model, settings.pooling, used, is_onednn)
        dtype_name = str(used).removeprefix("torch.")
        sha256 = fingerprint(
            folder, **asdict(settings), max_tokens_used=max_tokens, dtype=dtype_name, tokenizer=_tokenizer_sha256(tokenizer)
        )
        return cls(
            tokenizer,
            token_model,
            settings,
            width=config.hidden_size,
            max_tokens=max_tokens,
            sha256=sha256,
            kernel=f"{kernel} {dtype_name}",
        )

    def encode(self, texts: Sequence[str], is_query: bool = False) -> NDArray[np.float32]:
        """Encode texts, equal ones once.

        Args:
            texts: any strings; what is not valid Unicode is replaced by U+FFFD.
            is_query: put the model's query prefix before each text instead of its text prefix.

        Returns:
            (len(texts), width) float32 rows of unit norm, in the order of the texts.
        """
        first: dict[str, int] = {}
        source = np.fromiter((first.setdefault(text, row) for row, text in enumerate(texts)), np.int64, len(texts))
        rows = np.fromiter(first.values(), np.int64, len(first))
        vectors = np.empty((len(texts), self.width), np.float32)
        for start in range(0, len(rows), TEXTS_PER_CHUNK):
            chunk = rows[start : start + TEXTS_PER_CHUNK]
            tokens = self._tokens([texts[row] for row in chunk], is_query)
            lengths = np.array([len(ids) for ids in tokens])
            for batch in token_batches(lengths):
                runs = groupby((tokens[index] for index in batch), len)
                pooled = self._model([torch.from_numpy(np.stack(list(run), 1)) for _, run in runs])
                vectors[chunk[batch]] = F.normalize(pooled, dim=-1).numpy()
        copies = np.flatnonzero(source != np.arange(len(texts)))
        vectors[copies] = vectors[source[copies]]
        return vectors

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens the model would see of each text, special tokens and prefix included, after the cut."""
        starts = range(0, len(texts), TEXTS_PER_CHUNK)
        return [len(ids) for start in starts for ids in self._tokens(texts[start : start + TEXTS_PER_CHUNK], False)]

    def _tokens(self, texts: Sequence[str], is_query: bool) -> list[NDArray[np.int64]]:
        prefix = self._settings.query_prefix if is_query else self._settings.text_prefix
        whole = [prefix + valid_unicode(text) for text in texts]
        if self._settings.is_lower_case:
            whole = [text.lower() for text in whole]
        encoded = self._tokenizer(whole, truncation=True, max_length=self.max_tokens, return_attention_mask=False)
        nothing = [self._tokenizer.pad_token_id or 0]  # a tokenizer without special tokens makes none of ""
        return [np.array(ids or nothing, np.int64) for ids in encoded["input_ids"]]


class PaddedModel:
    """Any transformers encoder, each run of texts padded to the longest of the batch; see `TokenModel`."""

    def __init__(self, model: Any, pooling: Pooling, pad_id: int) -> None:
        self._model, self._pooling, self._pad_id = model, pooling, pad_id

    @torch.inference_mode()
    def __call__(self, runs: Sequence[Tensor]) -> Tensor:
        texts = [text for run in runs for text in run.T]
        padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=self._pad_id)  # (n, l)
        lengths = torch.tensor([len(text) for text in texts])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        states = self._model(input_ids=padded, attention_mask=mask).last_hidden_state  # (n, l, d)
        return torch.cat([pool(row[:length, None], self._pooling) for row, length in zip(states, lengths)])


def token_batches(lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Indices of texts in batches of at most TOKENS_PER_BATCH tokens (or one text), ordered by length."""
    order = np.argsort(lengths, kind="stable")
    start, tokens = 0, 0
    for end, length in enumerate(lengths[order]):
        if tokens and tokens + length > TOKENS_PER_BATCH:
            yield order[start:end]
            start, tokens = end, 0
        tokens += length
    if tokens:
        yield order[start:]


def valid_unicode(text: str) -> str:
    """The text with each lone surrogate replaced by U+FFFD; surrogate pairs become the character they stand for."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; emulation would be slower than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        auto = AutoModelForTextEncoding if getattr(config, "is_encoder_decoder", False) else AutoModel
        kind = torch.float32 if can_pack(config) else dtype
        model = auto.from_pretrained(folder, config=config, dtype=kind, use_safetensors=True, **options).eval()
        return AutoTokenizer.from_pretrained(folder, **options), model
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PplugError(f"model {folder} cannot be loaded as an encoder ({reason}): choose another model") from error


def _position_count(config: Any) -> int:
    """How many tokens a text may have: RoBERTa's positions start behind those of padding."""
    count = getattr(config, "max_position_embeddings", None) or 1 << 30
    return count - config.pad_token_id - 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else count


def _tokenizer_sha256(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()
