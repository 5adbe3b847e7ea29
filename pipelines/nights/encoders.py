"""The text encoder of a job, loaded once per process, whichever job or step asks."""

from functools import lru_cache
from pathlib import Path
from typing import Protocol

from embedder.encoder import Dtype, TextEncoder


class NamesEncoder(Protocol):
    """The config of any job that encodes."""

    @property
    def encoder(self) -> str: ...
    @property
    def dtype(self) -> Dtype: ...
    @property
    def cache(self) -> Path | None: ...


def load_encoder(config: NamesEncoder) -> TextEncoder:
    """The encoder that a config names; the last one is kept."""
    return _loaded(config.encoder, config.dtype, config.cache)


@lru_cache(maxsize=1)
def _loaded(name: str, dtype: Dtype, cache: Path | None) -> TextEncoder:
    return TextEncoder.from_pretrained(name, dtype=dtype, cache=cache)
