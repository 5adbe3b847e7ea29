"""A store in a folder of this machine; files are written through to the disk before their name appears."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from embedder.durable import make_folder, sync
from embedder.errors import PplugError
from pipelines.store.stored import StoredObject

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk, a quota and a limit on files say when they are reached."""

UNFINISHED: Final = ".tmp"  # how the name of a file ends that is being written


@contextlib.contextmanager
def named_causes(path: Path | str) -> Generator[None]:
    """Turn the failures of a disk that the user can mend into one line that says how."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL or any(f"os error {code}" in str(error) for code in FULL):  # deltalake sets no errno
            raise PplugError(f"no space left on the disk of {path}: free some and run the command again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise PplugError(f"{path} cannot be written ({error.strerror}): choose another --warehouse") from error
        raise


@dataclass(frozen=True)
class Folder:
    """A folder, absolute and without symbolic links; it need not be there yet."""

    folder: Path

    @property
    def uri(self) -> str:
        return self.folder.as_uri()

    @property
    def options(self) -> Mapping[str, str]:
        return {}

    def put(self, name: str, data: bytes | Path) -> None:
        path = self.folder / name
        with self._finished(path, data) as fresh:
            fresh.replace(path)

    def put_new(self, name: str, data: bytes) -> bool:
        path = self.folder / name
        is_first = self._link_unnamed(path, data)
        if is_first is not None:
            return is_first
        with self._finished(path, data) as fresh:
            try:
                os.link(fresh, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                return self._create(path, data)
        return True

    def get(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def list(self, prefix: str = "") -> list[StoredObject]:
        root = self.folder / prefix
        found = list[StoredObject]()
        for folder, _, files in os.walk(root):
            for file in files:
                if not file.endswith(UNFINISHED):
                    with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                        path = Path(folder, file)
                        found.append(StoredObject(path.relative_to(self.folder).as_posix(), path.stat().st_size))
        return sorted(found)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            path = self.folder / name
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others are in it, or have removed it
                for folder in path.relative_to(self.folder).parents[:-1]:
                    (self.folder / folder).rmdir()

    def delete_unfinished(self, prefix: str, part: str = "") -> None:
        for path in (self.folder / prefix).rglob(f".*{UNFINISHED}"):
            if part in path.name:
                path.unlink(missing_ok=True)

    def filesystem(self) -> Any:
        from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

        return SubTreeFileSystem(str(self.folder), LocalFileSystem())

    def __str__(self) -> str:
        return str(self.folder)

    @contextlib.contextmanager
    def _finished(self, path: Path, data: bytes | Path) -> Generator[Path]:
        """A finished file beside the path, for the caller to give the path's name to."""
        fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
        with named_causes(path):
            while True:
                make_folder(path.parent)
                with contextlib.suppress(FileNotFoundError):  # another run has just removed the folder, which was empty
                    fresh.touch(exist_ok=False)
                    break
            try:
                if isinstance(data, Path):
                    shutil.copyfile(data, fresh)
                else:
                    fresh.write_bytes(data)
                sync(fresh)
                yield fresh
                sync(path.parent)
            finally:
                fresh.unlink(missing_ok=True)

    def _link_unnamed(self, path: Path, data: bytes) -> bool | None:
        """Give the name to a file that has none before it is whole, of which a kill leaves nothing.

        Returns:
            Whether the name was free; None where the system or the file system has no such files.
        """
        try:
            make_folder(path.parent)
            handle = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
        except (AttributeError, OSError):
            return None
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(handle)
                os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=handle)  # a folder, or no link is followed
        except FileExistsError:
            return False
        except OSError:
            return None
        sync(path.parent)
        return True

    def _create(self, path: Path, data: bytes) -> bool:
        try:
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return False
        return True
