"""The text encoder of a job, loaded once per process, whichever job or step asks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedder.devices import Dtype
from embedder.encoder import TextEncoder
from embedder.errors import PplugError
from pipelines.nights.loading import load_once
from pipelines.nights.processes import found_out


@dataclass(frozen=True)
class EncoderConfig:
    """Which text encoder a job uses, and where its models compute."""

    encoder: str = "minilm"
    """Alias, folder or hub id of the text encoder."""
    dtype: Dtype = "auto"
    """float32, bfloat16, float16 or auto, the precision the encoder computes in (see nights/precisions.py)."""
    cache: Path | None = None
    """Where exported models are kept; the user's cache folder unless given."""
    device: str = "auto"
    """auto, cpu, cuda or mps (embedder/devices.py)."""


def load_encoder(config: EncoderConfig) -> TextEncoder:
    """Load the encoder that a config names; the last one is kept."""
    return _loaded(config.encoder, config.dtype, config.cache, config.device)


def encoder_facts(config: EncoderConfig, *, is_apart: bool) -> tuple[str, str, int]:
    """Find out fingerprint, kernel and width of an encoder, if `is_apart` in another process: this one has none."""
    return found_out(_facts, config.encoder, config.dtype, config.cache, config.device, is_apart=is_apart)


def require_same(what: str, name: str, ours: str, planned: str) -> None:
    """Refuse, in a worker, a model that is not the one that the night was planned with.

    Raises:
        PplugError: naming both.
    """
    if ours != planned:
        told = f"this worker has {what} {name} of fingerprint {ours[:8]}, but the night was planned with {planned[:8]}"
        raise PplugError(f"{told}: install the same {what} on every worker")


def absolute_model(name: str) -> str:
    """Name a model so that workers in another folder find it: a folder by its whole path."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name


@load_once
def _loaded(name: str, dtype: Dtype, cache: Path | None, device: str) -> TextEncoder:
    return TextEncoder.from_pretrained(name, dtype=dtype, cache=cache, device=device)


def _facts(*named: Any) -> tuple[str, str, int]:
    encoder = _loaded(*named)
    return encoder.sha256, encoder.kernel, encoder.width
