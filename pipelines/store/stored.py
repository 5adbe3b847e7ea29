"""What the rest of pplug asks of a place that holds bytes, and how such a place is found by its name."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from embedder.errors import UsageError
from pipelines.store.location import ForeignUrl, local_path, resolved

SCHEMES: Final = ("s3", "gs", "az", "abfss")  # object stores, by the scheme of their URIs


class StoredObject(NamedTuple):
    """One object of a store."""

    name: str  # relative to the store's root, with `/` between its parts
    size: int  # bytes


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

    def list(self, prefix: str = "") -> Sequence[StoredObject]:
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
        UsageError: if it is a URI of another scheme, or a path that cannot be a warehouse.
    """
    scheme, _, rest = str(place).partition("://")
    if isinstance(place, str) and rest and scheme in SCHEMES:
        from pipelines.store.bucket import Bucket

        return Bucket(place.rstrip("/"), dict(options or {}))
    from pipelines.store.folder import Folder

    try:
        return Folder(resolved(local_path(place)))
    except ForeignUrl as error:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        told = f"{place} is no place for a warehouse: name a folder, file:///FOLDER, or one of {known}"
        raise UsageError(told) from error
