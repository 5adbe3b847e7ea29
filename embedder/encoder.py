"""Texts to unit vectors, as fast as the device multiplies matrices.

    texts ─▶ distinct ones ─▶ tokens ─▶ ordered by length ─▶ batches ─▶ model and pooling ─▶ unit norm

BERT and XLM-RoBERTa families run packed (packed_bert.py), any other architecture through transformers with padding.

Threads: `torch.set_num_threads` of the caller counts. The OpenMP of torch's wheels lets waiting threads spin, so that a
second thread is slower than none while another process holds a core: set `OMP_WAIT_POLICY=PASSIVE` before torch is
imported, as pplug's command line does.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import normalizers
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from embedder.devices import Dtype, chosen_device, in_halves
from embedder.errors import PplugError
from embedder.fingerprints import fingerprint
from embedder.linear import projection_class
from embedder.models import model_folder
from embedder.packed_bert import PackedBert, can_pack
from embedder.padded_model import PaddedModel, require_unseen_padding
from embedder.plain_text import PlainTextTokenizer, load_tokenizer
from embedder.precision import decided_precision
from embedder.text_settings import TextSettings, read_text_settings
from embedder.weights import load_config, load_weights, loading

TOKENS_PER_BATCH = 2048
"""Tokens that go through the model together: more leave the processor's cache, fewer pay for more calls."""

TOKENS_PER_GPU_BATCH = 1 << 16
"""The same on a GPU: of BERT large 2 GB in 16 bits; a batch that does not fit is halved."""

Tell: TypeAlias = Callable[[int], None]  # hears how many texts were encoded just now

TEXTS_PER_CHUNK = 8192  # texts held as tokens at a time: bounds memory, and is enough for long runs of equal lengths
TEXTS_PER_TOKENIZER_CALL = 256  # the tokenizer keeps about 100 bytes per token of whole texts until the call ends

BATCHES_PER_TRIM = 32
"""After so many batches, about a second's, freed memory goes back to the system; that takes 5 to 20 ms."""

CHARACTERS_PER_TOKEN = 16
"""Only this many characters per token of `max_tokens` are tokenised when they turn out to fill the model."""

PROBE = "Héllo,  WORLD!\n\tnaïve 你好 😀 [SEP]</s> 0.5% https://example.org/a_b?c=d"
"""What the tokenizer makes of it is part of the fingerprint."""


class TextEncoder:
    """Encode texts with a frozen encoder; safe to share between threads.

    Attributes:
        width: length of a vector.
        max_tokens: longest text; what lies beyond is cut.
        sha256: fingerprint of the weights, the tokenizer and every setting that changes a vector, precision included.
        kernel: how it is computed, e.g. `onednn bfloat16`; says float32 where the processor has no bfloat16.
    """

    def __init__(self, folder: Path, settings: TextSettings, precision: torch.dtype, device: torch.device) -> None:
        tokenizer, model = _load(folder, precision)
        model.to(device)
        self.device = device
        limits = (settings.max_tokens, tokenizer.model_max_length, _position_count(model))
        self.max_tokens: int = min(limit for limit in limits if limit)
        self.width: int = min(settings.width or model.config.hidden_size, model.config.hidden_size)
        self._settings = settings
        if settings.is_lower_case:
            _lower_case(tokenizer, folder)
        self._tokenizer = PlainTextTokenizer(tokenizer)
        pad_id: Any = tokenizer.pad_token_id
        self._pad_id: int = pad_id or 0
        self._model: PackedBert | PaddedModel
        if can_pack(model.config):
            kind = projection_class(torch.empty(0, dtype=precision, device=device))
            kernel, self._model = kind.kernel, PackedBert(model, settings, precision, kind)
        else:
            kernel, padded = "transformers", PaddedModel(model, settings, self._pad_id)
            require_unseen_padding(padded, self._token_ids([PROBE])[0], str(folder))
            self._model = padded
        name = str(precision).removeprefix("torch.")
        self.kernel = f"{kernel} {name}" + ("" if device.type == "cpu" else f" {device.type}")
        facts = {"precision": name, "max_tokens": self.max_tokens, "probe": self._token_ids([PROBE])}
        self.sha256 = fingerprint(folder, **asdict(settings) | facts)

    @classmethod
    def from_pretrained(
        cls, name: str, dtype: Dtype = "float32", cache: Path | None = None, device: str = "cpu"
    ) -> Self:
        """Load an encoder by alias, folder or hub id (see `models.model_folder`).

        Args:
            name: which model.
            dtype: `bfloat16` is up to twice as fast (cosine to float32 above .9999 on average), depending on the
                processor, and means float32 where that has none; `float16` is for GPUs; `auto` is bfloat16 on a GPU,
                and on the CPU the faster one, as measured here.
            cache: folder of exported models.
            device: `cpu`, `cuda`, `mps`, or `auto`, the first that is there (see devices.py).

        Raises:
            InputMissing: there is no such model here.
            PplugError: the folder holds no encoder that can be run.
            UsageError: for a device that is not there, or a precision that it does not have.
        """
        folder, settings = encoder_folder(name, cache)
        precision = decided_precision(dtype, folder, device)
        return cls(folder, settings, getattr(torch, precision), chosen_device(device))

    def encode(self, texts: Sequence[str], is_query: bool = False) -> NDArray[np.float32]:
        """Encode texts, equal ones once.

        Args:
            texts: any strings; what is not valid Unicode is replaced by U+FFFD.
            is_query: put the model's query prefix before each text instead of its text prefix.

        Returns:
            (len(texts), width) float32 rows of unit norm, in the order of the texts.
        """
        return self.encode_counted(texts, is_query)[0]

    def encode_counted(
        self, texts: Sequence[str], is_query: bool = False, tell: Tell | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """Encode texts, and count the tokens that went through the model; `tell` hears how many texts a batch had."""
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
            most = TOKENS_PER_BATCH if self.device.type == "cpu" else TOKENS_PER_GPU_BATCH
            found: list[Tensor] = []  # on the device, which goes on while the next batch is made
            for number, batch in enumerate(batches := list(token_batches(lengths, most))):
                if number % BATCHES_PER_TRIM == 0:
                    return_free_memory()
                found += in_halves(self._pooled, [tokens[index] for index in batch])
                if tell is not None:
                    tell(len(batch))
            vectors[np.array(chunk)[np.concatenate(batches)]] = torch.cat(found).cpu().numpy()
        copies = np.flatnonzero(source != np.arange(len(texts)))
        vectors[copies] = vectors[source[copies]]
        return vectors, token_count

    def _pooled(self, tokens: Sequence[NDArray[np.int64]]) -> Tensor:
        """Run n texts in order of their lengths: (n, width) of unit norm."""
        runs = [torch.from_numpy(np.stack(list(run), 1)) for _, run in groupby(tokens, len)]
        return F.normalize(self._model(runs)[:, : self.width], dim=-1)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens the model sees of each text: special tokens and text prefix included, after the cut."""
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
        # a lone surrogate becomes U+FFFD, a pair the character that it stands for
        clean = [text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for text in texts]
        framed = self._tokenizer.framed_ids(clean, self.max_tokens)
        return [ids or [self._pad_id] for ids in framed]  # some tokenizers make nothing of ""


def encoder_folder(name: str, cache: Path | None = None) -> tuple[Path, TextSettings]:
    """Find the folder with the weights of an encoder, and how it is used."""
    folder = model_folder(name, cache)
    settings = read_text_settings(folder)
    return model_folder(str(folder / settings.transformer)), settings


def token_batches(lengths: Sequence[int], most: int = TOKENS_PER_BATCH) -> Iterator[NDArray[np.int64]]:
    """Group indices of texts, shortest first, into batches of at most `most` tokens (or one text)."""
    order = np.argsort(lengths, kind="stable")
    start, tokens = 0, 0
    for end, index in enumerate(order):
        tokens += lengths[index]
        if tokens > most and start < end:
            yield order[start:end]
            start, tokens = end, lengths[index]
    if len(order):
        yield order[start:]


def return_free_memory() -> None:
    """Give back what glibc keeps of freed tensors: batches of many shapes leave holes, 300 MB after 4,000 texts."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _load(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedTokenizerBase, Any]:
    """Load tokenizer and model; float32 when it will be packed, as the packed model rounds on its own."""
    from transformers import AutoModel, AutoModelForTextEncoding

    name, wanted = str(folder), "text encoder"
    with loading(name, wanted):
        config = load_config(folder)
        auto = AutoModelForTextEncoding if _has_encoder_apart(config) else AutoModel
        model = load_weights(auto, folder, config, torch.float32 if can_pack(config) else dtype, name, wanted)
    return load_tokenizer(folder), model


def _has_encoder_apart(config: Any) -> bool:
    """Tell whether only the encoder of an encoder-decoder is wanted; saved alone it is no longer called one."""
    saved = (getattr(config, "architectures", None) or [""])[0]
    return bool(getattr(config, "is_encoder_decoder", False)) or saved.endswith("EncoderModel")


def _lower_case(tokenizer: Any, folder: Path) -> None:
    """Let the tokenizer lower-case texts before anything else."""
    if not tokenizer.is_fast:
        raise PplugError(f"model {folder}: do_lower_case is not known for this kind of tokenizer: choose another model")
    backend = tokenizer.backend_tokenizer
    after = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *after])


def _position_count(model: Any) -> int | None:
    """Tell how many tokens a text may have; RoBERTa's positions begin behind those of padding."""
    count = getattr(model.config, "max_position_embeddings", None)
    if count is not None and count < 1:  # XLNet says -1: as many as you like
        return None
    padding = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    return count if count is None or padding is None else count - padding - 1
