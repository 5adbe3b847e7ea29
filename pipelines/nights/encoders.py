"""The text encoder of a job, loaded once per process, whichever job or step asks."""

from functools import lru_cache
from pathlib import Path

from embedder.encoder import Dtype, TextEncoder


@lru_cache(maxsize=1)
def load_encoder(name: str, dtype: Dtype, cache: Path | None) -> TextEncoder:
    """`TextEncoder.from_pretrained`; the last one is kept."""
    return TextEncoder.from_pretrained(name, dtype=dtype, cache=cache)
