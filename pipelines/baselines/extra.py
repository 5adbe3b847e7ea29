"""Libraries that only the methods need: the extra `compare`."""

from importlib import import_module
from typing import Any

from embedder.errors import InputMissing


def required(module: str) -> Any:
    """Import a module of the extra.

    Raises:
        InputMissing: naming the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        raise InputMissing(
            f"this method needs {module.partition('.')[0]}, which is not installed: run `pip install 'pplug[compare]'`"
        ) from error
