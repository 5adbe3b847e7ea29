"""The lock of a warehouse: jobs share it, and what deletes files holds it alone.

A job reads the files of the tables as they were when it began, and publishes what it made of them. So nobody may delete
these files, or forget a user, before it is done. A process that is killed lets go.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Final

from filelock import ReadWriteLock, Timeout

from embedder.errors import PplugError
from pipelines.tables.parquet import named_causes

LOCK_FILE: Final = "_jobs.lock"

PATIENCE: Final = 10.0
"""Seconds to wait for it."""


@contextlib.contextmanager
def job_lock(root: Path, *, is_alone: bool) -> Generator[None]:
    """Hold the lock of the warehouse in `root`.

    Raises:
        PplugError: if another process or thread keeps it and one of the two wants to be alone.
    """
    with named_causes(root):
        root.mkdir(parents=True, exist_ok=True)
        lock = ReadWriteLock(root / LOCK_FILE, PATIENCE, is_singleton=False)  # one instance would not part two threads
    with contextlib.closing(lock):
        try:
            held = lock.acquire_write() if is_alone else lock.acquire_read()
        except Timeout:
            other = "a job" if is_alone else "`pplug forget` or `pplug expire`"
            raise PplugError(f"{other} is running in {root}: run the command again when it is done") from None
        with held:
            yield
