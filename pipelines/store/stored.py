"""What the rest of pplug asks of a place that holds bytes, and how such a place is found by its name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from embedder.errors import UsageError

SCHEMES = ("s3", "gs", "az", "abfss")
"""Object stores, by the scheme of their URIs."""


class Stored(NamedTuple):
    """One object of a store."""

    name: str
    """Relative to the store's root, with `/` between its parts."""
    size: int
    """Bytes."""


class Store(Protocol):
    """Named bytes. A name appears whole or not at all; what `put` has returned from outlives a power cut."""

    @property
    def uri(self) -> str:
        """The root, as Delta Lake takes it."""
        ...

    @property
    def options(self) -> Mapping[str, str]:
        """Credentials and settings, in the words of Delta Lake; the environment's are used besides."""
        ...

    @property
    def folder(self) -> Path | None:
        """The root as a folder of this machine; None for an object store."""
        ...

    def put(self, name: str, data: bytes | Path) -> None:
        """Write bytes, or a copy of a file, in place of what has the name."""
        ...

    def put_new(self, name: str, data: bytes) -> bool:
        """Write bytes unless the name is taken; of several at the same time exactly one gets True."""
        ...

    def get(self, name: str) -> bytes | None:
        """Read an object; None if there is none of that name."""
        ...

    def list(self, prefix: str = "") -> Sequence[Stored]:
        """List the objects below a folder in the order of their names."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; one that is not there counts as deleted."""
        ...

    def filesystem(self) -> Any:
        """A pyarrow file system whose paths are the names."""
        ...


def open_store(place: str | Path, options: Mapping[str, str] | None = None) -> Store:
    """Name a store: a folder, resolved once, or a URI.

    Raises:
        UsageError: if the URI's scheme is not known.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", str(place))
    if found is None or isinstance(place, Path):
        from pipelines.store.folder import Folder

        return Folder(Path(place).expanduser().resolve())
    if found[1] not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(f"warehouse {place} is neither a folder nor {known}: choose another --warehouse")
    from pipelines.store.bucket import Bucket

    return Bucket(str(place).rstrip("/"), dict(options or {}))
