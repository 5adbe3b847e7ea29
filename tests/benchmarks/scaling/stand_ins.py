"""Stand-ins for the two models, so that everything else shows: an encoder by hash, and an LLM that says one word.

They take the place of `TextEncoder.from_pretrained` and `FrozenLLM.from_pretrained`; all else is the real thing.
"""

import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.encoder import Tell, TextEncoder
from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.prompts import Answer, Placement, PromptParts, Request

WIDTH = 384
BANK = 8191
"""Random vectors of which two make that of a text."""


class HashEncoder:
    """Vectors of unit norm that depend on a text's hash alone."""

    width, max_tokens = WIDTH, 256
    sha256, kernel = "e" * 64, "stand-in"

    def __init__(self) -> None:
        self.seconds = 0.0
        """CPU seconds spent here, for the benchmark to take off."""
        self._bank = np.random.default_rng(0).standard_normal((BANK, WIDTH), np.float32)

    def encode(self, texts: Sequence[str], is_query: bool = False) -> NDArray[np.float32]:
        """(len(texts), width) float32 rows of unit norm."""
        return self.encode_counted(texts, is_query)[0]

    def encode_counted(
        self, texts: Sequence[str], is_query: bool = False, tell: object = None
    ) -> tuple[NDArray[np.float32], int]:
        """The same, and a token for each five letters; nobody is told."""
        start = time.thread_time()
        hashes = np.fromiter((zlib.crc32(text.encode()) for text in texts), np.int64, len(texts))
        vectors = self._bank[hashes % BANK]
        vectors += self._bank[hashes // BANK % BANK]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.seconds += time.thread_time() - start
        return vectors, sum(self.token_counts(texts))

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """A token for each five letters."""
        return [1 + len(text) // 5 for text in texts]


class OneWordLLM:
    """Answers everything with one word, at once."""

    sha256, kernel = "1" * 64, "stand-in"
    num_beams, context_length, values_width = 1, 8192, 0
    width, embedding_norm = 576, 1.0
    kv_memory = None

    def answer(self, requests: Sequence[Request], placement: Placement, tell: Tell) -> list[Answer]:
        """One word for each request."""
        tell(len(requests))
        return [Answer("word", -1.0, "eos", 10, 2) for _ in requests]

    def parts(self, prompt: str, placement: Placement, reserve: int) -> PromptParts:
        """Everything before the soft prompt."""
        raise NotImplementedError("nothing is estimated here")

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """One token."""
        return (1,)


def stand_in() -> HashEncoder:
    """Put the stand-ins in the models' place in this process."""
    encoder, llm = HashEncoder(), OneWordLLM()
    loaded: Any = {TextEncoder: encoder, FrozenLLM: llm}
    for kind, model in loaded.items():
        kind.from_pretrained = lambda *_, found=model, **__: found
    return encoder


def write_plug(folder: Path) -> None:
    """A plug that was not trained: answering takes the same time with it."""
    from embedder.plug import PlugConfig
    from llm_jobs.training.fit import seeded_plug

    config = PlugConfig(
        kinds=("LaMP_4",),
        encoder_sha256=HashEncoder.sha256,
        llm_sha256=OneWordLLM.sha256,
        encoder_width=WIDTH,
        llm_width=OneWordLLM.width,
        embedding_norm=OneWordLLM.embedding_norm,
    )
    seeded_plug(config, seed=0).save_pretrained(folder)
