"""Locks on files: shared or alone, between processes and threads, gone with the process that holds one.

A file is opened as far as its owner allows, so that those who share a warehouse share its locks. On NFS a lock that is
held alone needs the right to write.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from embedder.errors import PplugError

STEP: Final = 0.05
"""Seconds between two tries."""


@contextlib.contextmanager
def held(path: Path, seconds: float = 0.0, *, is_alone: bool = True, is_made: bool = True) -> Generator[bool]:
    """Hold the lock of a file and yield True, or yield False where others keep it for so many seconds.

    Args:
        path: made if it is not there.
        seconds: how long to wait.
        is_alone: let nobody else hold it.
        is_made: whether to make the file; without it, what is not there is held by nobody.

    Raises:
        OSError: if the file cannot be made or opened.
        PplugError: if its file system has no locks.
    """
    handle, end = None, time.monotonic() + seconds
    try:
        while True:
            handle = _opened(path, is_made=is_made)
            if handle is None or (_locked(handle, path, is_alone=is_alone) and _is_named(handle, path)):
                break
            os.close(handle)
            handle = None
            if time.monotonic() >= end:
                yield False
                return
            time.sleep(STEP)
        yield True
    finally:
        if handle is not None:
            os.close(handle)


def _opened(path: Path, *, is_made: bool) -> int | None:
    made = os.O_CREAT if is_made else 0
    try:
        return os.open(path, os.O_RDWR | made, 0o666)
    except FileNotFoundError:
        if is_made:
            raise
        return None
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno != errno.EROFS or is_made:
            raise
        return os.open(path, os.O_RDONLY)


def _locked(handle: int, path: Path, *, is_alone: bool) -> bool:
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            told = f"the file system of {path} has no locks ({error.strerror})"
            raise PplugError(f"{told}: mount it with locks, or choose another --warehouse") from error
        raise
    return True


def _is_named(handle: int, path: Path) -> bool:
    """Whether the file is still the one of that name; whoever held it before may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
