"""The lock of a warehouse: jobs share it, and what deletes files holds it alone.

A job reads the files of the tables as they were when it began, and publishes what it made of them. So nobody may delete
these files, or forget a user, before it is done. A process that is killed lets go.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Final

from embedder.errors import PplugError
from pipelines.tables.file_lock import held
from pipelines.tables.parquet import named_causes

LOCK_FILE: Final = "_jobs.lock"

PATIENCE: Final = 10.0
"""Seconds to wait for it."""


class Refused(PplugError):
    """Another run goes on that this one may not go on beside."""


@contextlib.contextmanager
def job_lock(root: Path, *, is_alone: bool) -> Generator[None]:
    """Hold the lock of the warehouse in `root`.

    Raises:
        Refused: if another process or thread keeps it and one of the two wants to be alone.
    """
    with contextlib.ExitStack() as stack:
        with named_causes(root / LOCK_FILE):
            root.mkdir(parents=True, exist_ok=True)
            is_ours = stack.enter_context(held(root / LOCK_FILE, PATIENCE, is_alone=is_alone))
        if not is_ours:
            other = "a job" if is_alone else "`pplug forget` or `pplug expire`"
            raise Refused(f"{other} is running in {root}: run the command again when it is done")
        yield
