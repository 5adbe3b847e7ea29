"""Sources in an object store: s3://bucket/articles.csv, s3://bucket/folder, gs://bucket/2026-*/part-*.parquet.

Credentials and settings are those of a warehouse in such a store: Delta Lake's environment variables, or the options
that the warehouse was opened with.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from embedder.errors import PplugError
from pipelines.store.stored import SCHEMES, URL, Store, open_store

BUFFER_BYTES: Final = 2**20
_MAGIC: Final = re.compile(r"[*?\[]")
_WILD: Final = {r"\*\*/": "(?:.*/)?", r"\*\*": ".*", r"\*": "[^/]*", r"\?": "[^/]"}
_SETS: Final = {r"\[!": "[^", r"\[": "[", r"\]": "]", r"\-": "-"}


def spelled(path: Path) -> str:
    """A path or URI as it was typed: pathlib makes one slash of two."""
    found = URL.fullmatch(str(path))
    return f"{found[1]}://{found[2].lstrip('/')}" if found and found[1] in SCHEMES else str(path)


def is_remote(path: Path) -> bool:
    """Whether the path is a URI of an object store."""
    return "://" in spelled(path)


def listed(path: Path, options: Mapping[str, str]) -> tuple[Store, Sequence[str], bool]:
    """The store a URI lies in, its objects of that name, below it, or that fit its pattern; and whether it is one file.

    Raises:
        PplugError: if the store cannot be read.
    """
    scheme, _, rest = spelled(path).partition("://")
    parts = rest.rstrip("/").split("/")
    plain = next((at for at, part in enumerate(parts) if _MAGIC.search(part)), len(parts) - 1)
    store = open_store(f"{scheme}://{'/'.join(parts[: max(1, plain)])}", options)
    name = "/".join(parts[max(1, plain) :])
    if not _MAGIC.search(name):
        names = [one.name for one in store.list(name)]
        is_file = bool(name) and not names and store.filesystem().get_file_info(name).is_file
        return store, [name] if is_file else names, is_file
    signs = _WILD | (_SETS if "]" in name else {})
    pattern = re.compile(re.sub("|".join(map(re.escape, signs)), lambda found: signs[found[0]], re.escape(name)))
    return store, [one.name for one in store.list() if pattern.fullmatch(one.name)], False


def open_remote(store: Store, name: str) -> io.BufferedReader:
    """Open an object, to be read in any order."""
    return io.BufferedReader(_RemoteFile(store, name), BUFFER_BYTES)


class _RemoteFile(io.RawIOBase):
    """An object; a store that fails is an error of its own, no broken archive."""

    def __init__(self, store: Store, name: str) -> None:
        self._what = f"{store}/{name}"
        self._file: IO[Any] = self._asked(lambda: store.filesystem().open_input_file(name))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._asked(lambda: self._file.seek(offset, whence))

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        data = self._asked(lambda: self._file.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def _asked(self, ask: Any) -> Any:
        try:
            return ask()
        except OSError as error:
            said = str(error).partition("\n")[0][:300]
            raise PplugError(f"{self._what} cannot be read ({said}): check its name and your credentials") from error
