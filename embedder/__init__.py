"""Frozen text encoders and the persona plug: texts to vectors, vectors to a soft prompt.

Exports load on first use, because they import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedder.encoder import TextEncoder
    from embedder.plug import PersonaPlug

__all__ = ["PersonaPlug", "TextEncoder"]

_HOMES = {"PersonaPlug": ".plug", "TextEncoder": ".encoder"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
