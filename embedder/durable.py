"""Files that a power loss leaves whole, old or new.

A file that is closed may still be in memory only, and so may its name. A system that loses power then has a file of
length zero under the new name, or none.
"""

import errno
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do this for folders
            raise
    finally:
        os.close(handle)


def put(fresh: Path, path: Path) -> None:
    """Give a finished file its name, replacing what has it, and return when both are on the disk."""
    sync(fresh)
    fresh.replace(path)
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, and return when their names are on the disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)
