"""The nightly jobs, the warehouse they write, the command that runs them, and the same from Python.

    from pipelines import Personalizer, Warehouse

Exports load on first use: they import torch, DuckDB and Delta Lake.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.library.personalizer import Personalizer
    from pipelines.library.warehouse import Warehouse

__all__ = ["Personalizer", "Warehouse"]

_HOMES = {"Personalizer": ".library.personalizer", "Warehouse": ".library.warehouse"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipelines.library.quiet import quietly

    with quietly():
        return getattr(import_module(_HOMES[name], __name__), name)
