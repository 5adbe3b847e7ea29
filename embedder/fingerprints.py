"""The fingerprint of a model: weights, files that say how it is run, and settings of ours.

    *.safetensors ─▶ weights_sha256 ─┐
    config.json, tokenizer.json ... ─┼─▶ fingerprint
    settings ────────────────────────┘

Whatever stands in a settings file of the model counts, unless it is known to change no result (WITHOUT_BEARING).
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embedder.errors import PplugError

SETTINGS = ("config", "generation_config", "tokenizer_config", "special_tokens_map", "added_tokens")
VOCABULARY_FILES = ("vocab.txt", "vocab.json", "merges.txt", "*.model")
"""What a tokenizer is made from where there is no tokenizer.json."""

WITHOUT_BEARING = {
    # where a file comes from, what wrote it, and code that is never run
    *("_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "tokenizer_file"),
    *("special_tokens_map_file", "processor_class", "auto_map", "backend", "is_local"),
    # the precision of the file; that of a run is ours to choose
    *("dtype", "torch_dtype"),
    # training, and tasks other than ours
    *("use_cache", "gradient_checkpointing", "id2label", "label2id", "problem_type", "finetuning_task"),
    # sampling: answers are greedy, or by beams
    *("_from_model_config", "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("epsilon_cutoff", "eta_cutoff"),
    # what a chat template writes around a prompt counts, not how it is written
    "chat_template",
}
"""Keys of the settings files, at any depth, that change no result."""


def file_sha256(path: Path) -> str:
    """Hash a file; it is read once per process unless the file changes."""
    stat = path.stat()
    return _file_sha256(path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_sha256(path: Path, inode: int, size: int, changed_at: int) -> str:
    del inode, size, changed_at  # another file under the same name has others
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(folder: Path) -> str:
    """Hash the folder's safetensors: the file, or of the digests of several in name order.

    For a model in one file it is that file's digest, the one published beside it.
    """
    digests = [file_sha256(path) for path in sorted(folder.glob("*.safetensors"))]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def fingerprint(folder: Path, **settings: object) -> str:
    """Hash all that changes what the model in a folder says; `settings`, anything JSON can hold, say how it is run."""
    facts = {"weights": weights_sha256(folder), "files": _file_facts(folder), "settings": settings}
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def require_finite(model: nn.Module, name: str, but_in: tuple[str, ...] = ()) -> None:
    """Refuse weights that are no numbers, `but_in` those with such a part in their name.

    Raises:
        PplugError: naming the first of them.
    """
    for key, weight in model.named_parameters():
        if any(part in key for part in but_in):
            continue
        # The sum of finite numbers may overflow, in theory; it is ten times as fast to take.
        if not weight.detach().sum(dtype=torch.float32).isfinite() and not weight.isfinite().all():
            raise PplugError(f"model {name}: weights {key} hold NaN or infinity: choose another model")


def _file_facts(folder: Path) -> dict[str, Any]:
    """Read what the settings files say, by name, and hash what holds the vocabulary."""
    names = [f"{name}.json" for name in SETTINGS]
    facts = {name: _with_bearing(read_json(folder / name)) for name in names if (folder / name).is_file()}
    patterns = ["tokenizer.json"] if (folder / "tokenizer.json").is_file() else VOCABULARY_FILES
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return facts | {path.name: file_sha256(path) for path in found}


def read_json(path: Path) -> Any:
    """Read a settings file of a model; raises PplugError if it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (ValueError, RecursionError) as error:
        raise PplugError(f"{path} is no JSON ({error}): choose another model") from error


def _with_bearing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_bearing(inner) for key, inner in value.items() if key not in WITHOUT_BEARING}
    return [_with_bearing(inner) for inner in value] if isinstance(value, list) else value
