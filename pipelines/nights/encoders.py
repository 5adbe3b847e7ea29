"""The text encoder of a job, loaded once per process, whichever job, step or thread asks."""

from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Protocol

from embedder.encoder import TextEncoder
from embedder.precision import Dtype


class NamesEncoder(Protocol):
    """The config of any job that encodes."""

    @property
    def encoder(self) -> str: ...
    @property
    def dtype(self) -> Dtype: ...
    @property
    def cache(self) -> Path | None: ...


_one_at_a_time = Lock()
"""A cache alone lets two threads load the same model."""


def load_encoder(config: NamesEncoder) -> TextEncoder:
    """The encoder that a config names; the last one is kept."""
    with _one_at_a_time:
        return _loaded(config.encoder, config.dtype, config.cache)


@lru_cache(maxsize=1)
def _loaded(name: str, dtype: Dtype, cache: Path | None) -> TextEncoder:
    return TextEncoder.from_pretrained(name, dtype=dtype, cache=cache)
