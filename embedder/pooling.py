"""What a sentence-transformers folder says about its model: pooling, prefixes, longest text.

    modules.json ─▶ which folder holds the transformer, which the pooling
    1_Pooling/config.json ─▶ pooling        sentence_bert_config.json ─▶ longest text
    config_sentence_transformers.json ─▶ prefixes of queries and of texts

A plain Hugging Face folder has none of them: then, as in sentence-transformers, the mean of the tokens and no prefix.
Vectors are always scaled to unit norm, so a Normalize module changes nothing.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedder.errors import PplugError


class Pooling(StrEnum):
    """How the token states of a text become one vector."""

    MEAN = "mean"
    CLS = "cls"
    MAX = "max"
    LAST = "lasttoken"


@dataclass(frozen=True)
class TextSettings:
    """How texts go into the model and come out of it; part of the encoder's fingerprint."""

    pooling: Pooling = Pooling.MEAN
    text_prefix: str = ""
    """Put before each text of a history ("passage: " for E5)."""
    query_prefix: str = ""
    """Put before each text that asks ("query: " for E5)."""
    max_tokens: int | None = None
    """The longest text in tokens, special tokens included; None: as many as the model has positions."""
    is_lower_case: bool = False
    """Texts are lower-cased before the tokenizer sees them."""
    transformer: str = ""
    """The subfolder that holds the transformer; usually the folder itself."""


def pool(states: Tensor, pooling: Pooling) -> Tensor:
    """Pool texts of equal length.

    Shapes: n texts, l tokens each, no padding, d = width.
        states   (l, n, d)  last hidden states, any float dtype
        returns  (n, d)     float32, not normalised
    """
    match pooling:
        case Pooling.MEAN:
            return states.mean(0, dtype=torch.float32)
        case Pooling.CLS:
            return states[0].float()
        case Pooling.MAX:
            return states.amax(0).float()
        case Pooling.LAST:
            return states[-1].float()


def read_text_settings(folder: Path) -> TextSettings:
    """Read the settings of a model folder.

    Raises:
        PplugError: the folder asks for something this encoder does not do (a Dense module, two poolings at once ...).
    """
    subfolders: dict[str, str] = {}
    for module in _read(folder / "modules.json", []):
        name = str(module["type"]).rpartition(".")[-1]
        if name not in ("Transformer", "Pooling", "Normalize"):
            raise PplugError(
                f"model {folder}: modules.json has a {name} module, pplug runs Transformer, Pooling and Normalize: "
                f"choose another model"
            )
        subfolders[name] = str(module["path"])
    transformer = subfolders.get("Transformer", "")
    limits = _read(folder / transformer / "sentence_bert_config.json", {})
    prompts = _read(folder / "config_sentence_transformers.json", {})
    named: dict[str, str] = prompts.get("prompts") or {}
    default = named.get(prompts.get("default_prompt_name") or "", "")
    return TextSettings(
        pooling=_pooling(folder / subfolders["Pooling"] / "config.json") if "Pooling" in subfolders else Pooling.MEAN,
        text_prefix=next((named[name] for name in ("document", "passage", "corpus") if name in named), default),
        query_prefix=named.get("query", default),
        max_tokens=limits.get("max_seq_length"),
        is_lower_case=bool(limits.get("do_lower_case")),
        transformer=transformer,
    )


def _pooling(path: Path) -> Pooling:
    """The one pooling of a config, in the form with one key or in the older form with a flag per pooling."""
    config = _read(path, {})
    flags = {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_mean_sqrt_len_tokens": "mean",  # the mean times a number: equal once scaled to unit norm
        "pooling_mode_weightedmean_tokens": "weightedmean",
        "pooling_mode_lasttoken": "lasttoken",
    }
    modes = config.get("pooling_mode") or [mode for flag, mode in flags.items() if config.get(flag)] or ["mean"]
    wanted = [modes] if isinstance(modes, str) else list(modes)
    mode = "mean" if wanted == ["mean_sqrt_len_tokens"] else wanted[0]
    if len(wanted) > 1 or mode not in list(Pooling) or not config.get("include_prompt", True):
        raise PplugError(f"{path}: pooling {wanted} is not one of {', '.join(Pooling)}: choose another model")
    return Pooling(mode)


def _read(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default
    except ValueError as error:
        raise PplugError(f"{path} is no JSON ({error}): choose another model") from error
