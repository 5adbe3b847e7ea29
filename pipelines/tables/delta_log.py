"""The files of a table's Delta log: written through to the disk, and looked through for what a power loss took.

deltalake closes a commit without waiting for the disk. A commit that is empty reads as one that changed nothing.
"""

import contextlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from embedder.durable import sync
from embedder.errors import PplugError


def sync_log(folder: Path, since: int = -1) -> None:
    """Return when all entries after version `since` of the log of the table in `folder` are on the disk."""
    log = folder / "_delta_log"
    for path in log.iterdir():
        if path.suffix in (".json", ".parquet") and _version(path) > since:
            with contextlib.suppress(FileNotFoundError):  # cleaned up by another run meanwhile
                sync(path)
    with contextlib.suppress(FileNotFoundError):
        sync(log / "_last_checkpoint")
    sync(log)
    sync(folder)


def settle_log(table: DeltaTable, folder: Path) -> None:
    """Return when the commit that was just made to `table` is on the disk; remove expired entries behind a checkpoint.

    deltalake would remove them when it writes the checkpoint, which a power loss may then take away.
    """
    version = table.version()  # the one that the commit was based on
    sync_log(folder, version)
    if any(_version(path) > version for path in (folder / "_delta_log").glob("*.checkpoint*.parquet")):
        DeltaTable(folder.as_uri()).cleanup_metadata()


def require_commits(folder: Path) -> None:
    """Refuse a log with an empty entry.

    Raises:
        PplugError: names the first one.
        NotADirectoryError: if the table is a file.
    """
    try:
        with os.scandir(folder / "_delta_log") as entries:
            empty = [entry.path for entry in entries if entry.name.endswith(".json") and not _size(entry)]
    except FileNotFoundError:
        return
    if empty:
        raise PplugError(_lost(Path(min(empty))))


def lost_entry(folder: Path) -> str:
    """What to tell of a log that cannot be read: the first entry that is at fault."""
    for path in sorted((folder / "_delta_log").iterdir()):
        try:
            if path.suffix == ".parquet":
                pq.read_metadata(path)
            elif path.suffix == ".json" or path.name == "_last_checkpoint":
                for line in path.read_text(encoding="utf8").splitlines() or [""]:
                    json.loads(line)
        except (ValueError, OSError, pa.ArrowException):
            return _lost(path)
    return f"the log in {folder / '_delta_log'} cannot be read: restore it from a backup"


def _version(path: Path) -> int:
    """The version of an entry of a log; -1 for what is none."""
    return int(path.name[:20]) if path.name[:20].isdigit() else -1


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # cleaned up by another run meanwhile
        return 1


def _lost(path: Path) -> str:
    told = f"{path} is empty or damaged, as a power loss leaves it"
    if path.name == "_last_checkpoint":
        return f"{told}: delete it and run the command again"
    if path.suffix == ".parquet":
        return f"{told}: restore it from a backup"
    return f'{told}: restore it from a backup, or write {{"commitInfo":{{}}}} into it to go on without what it changed'
