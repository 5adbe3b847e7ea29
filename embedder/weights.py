"""Load a model of `transformers` from its folder: every weight, from safetensors, and no code that came with it."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from embedder.errors import PplugError
from embedder.fingerprints import require_finite

LOCAL: Final[dict[str, Any]] = {"local_files_only": True, "trust_remote_code": False}  # for every `from_pretrained`


@contextmanager
def loading(name: str, wanted: str) -> Generator[None]:
    """Tell in one line what a library raises while it loads a model.

    Raises:
        PplugError: naming the model, and what was wanted of it ("LLM", "text encoder").
    """
    try:
        yield
    except PplugError:
        raise
    except Exception as error:  # libraries raise whatever they like: a missing package, a shape, a key of a file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if reason.startswith("Unrecognized configuration class"):  # and then a list of hundreds
            reason = f"transformers knows no {wanted} of its architecture"
        told = f"model {name} cannot be loaded as {wanted} ({reason}): choose another {wanted}"
        raise PplugError(told) from error


def load_config(folder: Path) -> Any:
    """Load the configuration of a model."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, **LOCAL)


def load_weights(
    auto: Any, folder: Path, config: Any, dtype: torch.dtype, name: str, wanted: str, but_in: tuple[str, ...] = ()
) -> Any:
    """Load a model by a class of `transformers`, ready to be run; weights `but_in` such names need be no numbers.

    Raises:
        PplugError: if weights are missing, which transformers would make up at random, or are no numbers.
    """
    options = LOCAL | {"config": config, "dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    model, report = auto.from_pretrained(folder, **options)
    if missing := sorted(key for key in report["missing_keys"] if "pooler" not in key):
        raise PplugError(f"model {name} lacks {len(missing)} weights ({missing[0]} ...): choose another {wanted}")
    require_finite(model, name, but_in)
    return model.eval()
