"""What the rest of pplug asks of a place that holds bytes, and how such a place is found by its name."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import unquote

from embedder.errors import UsageError

SCHEMES: Final = ("s3", "gs", "az", "abfss")  # object stores, by the scheme of their URIs
URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(.*)", re.DOTALL)  # one slash: pathlib makes one of two

UNREADABLE: Final = "%?#\\"
"""Letters of a path that deltalake 1.6 takes for something else, as it reads a URL."""


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

    def delete_unfinished(self, prefix: str, part: str = "") -> None:
        """Delete what killed runs had not finished writing below a folder, where `part` is in the name it was for."""
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


class ForeignUrl(UsageError):
    """A URL that is no path of this machine."""


def local_path(name: str | Path) -> Path:
    """The path that a folder, a `file://` URL or a path that begins with `~` stands for.

    Raises:
        ForeignUrl: if it is a URL of anything else.
        UsageError: if it names a user who is not there.
    """
    text = str(name)
    if found := URL.fullmatch(text):
        scheme, rest = found.groups()
        host, slash, path = rest.removeprefix("/").partition("/") if rest.startswith("/") else ("", "/", rest)
        if scheme.lower() != "file" or host not in ("", "localhost"):
            raise ForeignUrl(f"{text} is no place on this machine: name a path, or file:///PATH")
        return Path(slash + unquote(path))
    expanded = os.path.expanduser(text)  # pathlib would take the folder ./~ for a home as well
    if expanded.startswith("~") and text.startswith("~"):
        raise UsageError(f"{text}: no home folder of that user is known: write the whole path")
    return Path(expanded)


def resolved(root: Path) -> Path:
    """The one name of a warehouse's folder: absolute, links followed, so that Delta and the system mean the same one.

    Raises:
        UsageError: if it is no folder that the tables could lie in.
    """
    if URL.fullmatch(str(root)):
        root = local_path(root)
    try:
        path = root.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise UsageError(f"warehouse path {root} leads nowhere ({error}): choose another --warehouse") from error
    odd = [letter for letter in UNREADABLE if letter in str(path)]
    if odd:
        raise UsageError(f"warehouse path {root} has a {odd[0]}: choose another --warehouse")
    return path
