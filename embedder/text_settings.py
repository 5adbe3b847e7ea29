"""What a sentence-transformers folder says about its model: pooling, prefixes, longest text, width.

    modules.json ─▶ which folder holds the transformer, which the pooling
    1_Pooling/config.json ─▶ pooling        sentence_bert_config.json ─▶ longest text, lower case
    config_sentence_transformers.json ─▶ prefixes of queries and of texts, width

Every key of these files is obeyed, has no bearing on a vector, or is refused by its name; so is a key that nobody here
knows. Vectors equal those of `SentenceTransformer.encode(normalize_embeddings=True)`: always scaled to unit norm, so
that a Normalize module changes nothing. A plain Hugging Face folder has none of the files: then, as in
sentence-transformers, the mean of the tokens and no prefix.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from embedder.errors import PplugError
from embedder.fingerprints import read_json
from embedder.pooling import Pooling

TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names that the settings of the transformer have had; the first one there counts."""

POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Older form of `pooling_mode`: a flag for each."""

KNOWN: Mapping[str, tuple[str, ...]] = {
    "modules": ("path", "type", "idx", "name", "kwargs"),
    "config_sentence_transformers": (
        *("prompts", "default_prompt_name", "truncate_dim"),
        *("similarity_fn_name", "__version__", "requirements"),
    ),
    "transformer": ("max_seq_length", "do_lower_case", "unpad_inputs"),
    "pooling": ("pooling_mode", "include_prompt", *POOLING_FLAGS, "word_embedding_dimension", "embedding_dimension"),
    "normalize": (),
}
"""Keys by the file they stand in, whatever its name: those that are obeyed, and those that change no vector (how others
compare vectors, versions of packages, how batches are laid out, the width of the token states)."""

ONLY: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "config_sentence_transformers": {"model_type": ("SentenceTransformer",)},
    "transformer": {
        "transformer_task": ("feature-extraction",),
        "module_output_name": ("token_embeddings",),
        "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
    },
    "normalize": {"module_input_name": ("sentence_embedding",), "module_output_name": ("sentence_embedding",)},
}
"""Keys that may say one thing only: what is done anyway."""

EMPTY = (None, "", False, [], {})  # values with which any key says nothing


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
    width: int | None = None
    """Only so many of the first numbers of a vector are kept (Matryoshka models); None: all."""
    is_lower_case: bool = False
    """Texts are lower-cased before the tokenizer sees them."""
    transformer: str = ""
    """The subfolder that holds the transformer; usually the folder itself."""


def read_text_settings(folder: Path) -> TextSettings:
    """Read the settings of a model folder.

    Raises:
        PplugError: the folder asks for something this encoder does not do (a Dense module, two poolings at once ...).
    """
    paths = _module_paths(folder)
    transformer = folder / paths["Transformer"]
    limits_path = next((path for name in TRANSFORMER_FILES if (path := transformer / name).is_file()), None)
    limits = _read("transformer", limits_path) if limits_path else {}
    pooling_path = folder / paths["Pooling"] / "config.json" if "Pooling" in paths else None
    pooling = _read("pooling", pooling_path) if pooling_path else {}
    if "Normalize" in paths and PurePosixPath(paths["Normalize"]) != PurePosixPath():
        _read("normalize", folder / paths["Normalize"] / "config.json")
    path = folder / "config_sentence_transformers.json"
    given = _read("config_sentence_transformers", path)
    text_prefix, query_prefix = _prefixes(given, path)
    if (text_prefix or query_prefix) and pooling.get("include_prompt", True) is False:
        raise _refusal(pooling_path or folder, "include_prompt", False, "prefixes count as part of a text here")
    return TextSettings(
        pooling=_pooling(pooling, pooling_path or folder),
        text_prefix=text_prefix,
        query_prefix=query_prefix,
        max_tokens=_count(limits, "max_seq_length", limits_path or folder),
        width=_count(given, "truncate_dim", path),
        is_lower_case=bool(limits.get("do_lower_case")),
        transformer=paths["Transformer"],
    )


def _module_paths(folder: Path) -> dict[str, str]:
    """Read the folder of each module by its name: a Transformer, then perhaps a Pooling, then perhaps a Normalize."""
    path = folder / "modules.json"
    if not path.is_file():
        return {"Transformer": ""}
    modules = read_json(path)
    if not isinstance(modules, list) or not all(
        isinstance(module, dict) and {"type", "path"} <= module.keys() for module in modules
    ):
        raise PplugError(f"{path} is no list of modules with type and path: choose another model")
    paths: dict[str, str] = {}
    for module in modules:
        _require_known("modules", module, path)
        name, where = str(module["type"]).rpartition(".")[-1], PurePosixPath(str(module["path"]))
        if where.is_absolute() or ".." in where.parts:
            raise PplugError(f"{path}: path {str(where)!r} leads out of the folder: choose another model")
        paths[name] = str(module["path"])
    wanted = [name for name in ("Transformer", "Pooling", "Normalize") if name in paths]
    if list(paths) != wanted or len(paths) != len(modules) or wanted[:2] != ["Transformer", "Pooling"]:
        found = ", ".join(str(module["type"]).rpartition(".")[-1] for module in modules) or "nothing"
        raise PplugError(
            f"{path} runs {found}; pplug runs Transformer, Pooling and perhaps Normalize: choose another model"
        )
    return paths


def _prefixes(given: Mapping[str, Any], path: Path) -> tuple[str, str]:
    """Read what stands before a text of a history, and before a query."""
    named, chosen = given.get("prompts") or {}, given.get("default_prompt_name")
    if not isinstance(named, dict) or not all(isinstance(text, str | None) for text in named.values()):
        raise _refusal(path, "prompts", named, "it takes texts by name")
    if chosen and chosen not in named:
        raise _refusal(path, "default_prompt_name", chosen, f"it takes one of {', '.join(named) or 'no prompts'}")
    named = {name: text for name, text in named.items() if text}
    default = named.get(chosen, "")
    text = next((named[name] for name in ("document", "passage", "corpus") if name in named), default)
    return text, named.get("query", default)


def _pooling(config: Mapping[str, Any], path: Path) -> Pooling:
    """Read the one pooling of a config, in the form with one key or in the older form with a flag per pooling."""
    modes = config.get("pooling_mode") or [mode for flag, mode in POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    wanted = [modes] if isinstance(modes, str) else list(modes)
    # The mean times a number is the mean, once scaled to unit norm.
    mode = "mean" if wanted == ["mean_sqrt_len_tokens"] else wanted[0]
    if len(wanted) > 1 or mode not in list(Pooling):
        shown = " and ".join(map(str, wanted))
        raise PplugError(f"{path}: pooling {shown} is not one of {', '.join(Pooling)}: choose another model")
    return Pooling(mode)


def _count(config: Mapping[str, Any], key: str, path: Path) -> int | None:
    """Read a number above 0, or nothing."""
    value = config.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise _refusal(path, key, value, "it takes a whole number above 0")
    return value


def _read(kind: str, path: Path) -> dict[str, Any]:
    """Read the settings in a file; none if it is not there."""
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        raise PplugError(f"{path} holds no settings: choose another model")
    _require_known(kind, config, path)
    return config


def _require_known(kind: str, config: Mapping[str, Any], path: Path) -> None:
    """Refuse what would change a vector and is not obeyed."""
    only = ONLY.get(kind, {})
    for key, value in config.items():
        if key == "modality_config" and isinstance(value, dict):
            value = {"text": value.get("text")}  # nothing else is read here
        if key in KNOWN[kind] or value in EMPTY:
            continue
        if value not in only.get(key, ()):
            reason = f"pplug runs {only[key][0]} only" if key in only else "pplug does not know what it asks for"
            raise _refusal(path, key, value, reason)


def _refusal(path: Path, key: str, value: object, reason: str) -> PplugError:
    return PplugError(f"{path}: {key} = {json.dumps(value)[:80]}: {reason}: choose another model")
