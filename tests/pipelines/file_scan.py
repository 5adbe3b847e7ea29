"""A search of our own for what a user left on disk: every value of every file, whatever pplug knows of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

Vector = tuple[float, ...]


def leaves(value: Any) -> Iterator[str | Vector]:
    """Every text in a value, and every list of numbers."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(name)
            yield from leaves(inner)
    elif isinstance(value, list | tuple):
        if value and all(isinstance(number, int | float) for number in value):
            yield tuple(value)
        for inner in value:
            yield from leaves(inner)


def decoded(path: Path) -> Iterator[str | Vector]:
    """What a file holds: its bytes as text, and of a finished Parquet file every value."""
    yield path.read_bytes().decode("utf8", "replace")
    if path.read_bytes().endswith(b"PAR1"):
        yield from leaves(pq.ParquetFile(path).read().to_pylist())


def telling_files(root: Path, texts: set[str], vectors: set[Vector]) -> set[str]:
    """The files that hold one of the texts anywhere in a text, or one of the vectors, relative to `root`."""
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file()
        for leaf in decoded(path)
        if (any(text in leaf for text in texts) if isinstance(leaf, str) else leaf in vectors)
    }
