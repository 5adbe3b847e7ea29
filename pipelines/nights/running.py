"""Runs that are under way: each leaves a marker that a kill cannot take away, under a lock that a kill releases.

    _running/<name>.json    the run as it began; touched every few seconds
    _running/<name>.lock    held as long as the run lives

A marker whose lock is free is that of a run that was killed; so is a lock that nobody holds, without a marker yet.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from embedder.durable import put
from pipelines.nights.meanwhile import repeated
from pipelines.tables.file_lock import held
from pipelines.tables.job_lock import Refused
from pipelines.tables.parquet import named_causes
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

Bury = Callable[[Row, datetime], None]
"""Called with a killed run as it began, and with its last sign of life."""

BEGUN = {"run_id", "job", "ds", "started_at", "config"}
"""What is known of a run when it begins."""

LOCK_SECONDS = 2.0
"""How long a run waits for its lock: others hold it for a moment when they bury a killed run."""

LIFE_SECONDS = 5.0
"""Time between two signs of life."""


class AlreadyRunning(Refused):
    """Another process is at the same night."""


def running_folder(warehouse: Warehouse) -> Path:
    """Where the markers lie."""
    return warehouse.root / "_running"


@contextlib.contextmanager
def marked_run(warehouse: Warehouse, name: str, row: Row, bury: Bury) -> Generator[Path]:
    """Hold the lock of `name` and leave a marker; yields the marker, which the caller removes when all is recorded.

    Args:
        warehouse: where the marker goes.
        name: what no two runs may do at the same time.
        row: the run as it begins.
        bury: told of every killed run that is found, before the marker is written.

    Raises:
        AlreadyRunning: if another process holds the lock.
    """
    marker = running_folder(warehouse) / f"{name}.json"
    with contextlib.ExitStack() as stack:
        with named_causes(marker.parent):
            marker.parent.mkdir(parents=True, exist_ok=True)
            if not stack.enter_context(_held(marker, LOCK_SECONDS)):
                raise AlreadyRunning(_already_running(marker, row))
            _bury(marker, bury)
            for other in sorted({path.with_suffix(".json") for path in marker.parent.iterdir()} - {marker}):
                with _held(other) as is_dead:
                    if is_dead:
                        _bury(other, bury)
            fresh = marker.with_suffix(".tmp")
            fresh.write_text(json.dumps(row, default=str), encoding="utf8")
            put(fresh, marker)
        stack.enter_context(repeated(partial(_sign_of_life, marker), LIFE_SECONDS))
        yield marker


def runs_under_way(warehouse: Warehouse) -> list[dict[str, Any]]:
    """The runs that have begun and are in no table yet; `status` says whether they were killed meanwhile."""
    found = list[dict[str, Any]]()
    for marker in sorted(running_folder(warehouse).glob("*.json")):
        with held(marker.with_suffix(".lock"), is_made=False) as is_dead:  # a reader may be unable to write
            row = _read(marker)
        if row:
            found.append(dict(row) | {"status": "killed" if is_dead else "running"})
    return found


@contextlib.contextmanager
def _held(marker: Path, seconds: float = 0.0) -> Generator[bool]:
    """Hold the lock of a marker, if nobody else does; its file goes with it."""
    lock = marker.with_suffix(".lock")
    with held(lock, seconds) as is_ours:
        try:
            yield is_ours
        finally:
            if is_ours:
                lock.unlink(missing_ok=True)


def _sign_of_life(marker: Path) -> None:
    """Touch the marker of a run that lives: of a killed run its time is the end."""
    with contextlib.suppress(OSError):
        os.utime(marker)


def _bury(marker: Path, bury: Bury) -> None:
    row = _read(marker)
    if not row and marker.exists():
        logger.warning("%s is empty or damaged, as a power loss leaves it: a run that died is not recorded", marker)
    if row:
        bury(row, datetime.fromtimestamp(marker.stat().st_mtime, UTC))
    for path in (marker, marker.with_suffix(".tmp")):
        path.unlink(missing_ok=True)


def _read(marker: Path) -> Row:
    """The run of a marker; nothing if that has just ended, or the power went while it began."""
    try:
        row = json.loads(marker.read_text(encoding="utf8"))
    except (FileNotFoundError, ValueError):
        return {}
    return row if isinstance(row, dict) and row.keys() >= BEGUN else {}


def _already_running(marker: Path, row: Row) -> str:
    other = _read(marker)
    who = f"run {other['run_id']} since {other['started_at']}" if other else "another run"
    return f"{row['job']} ds={row['ds']} is running already ({who}): wait for it; `pplug runs` shows when it is done"
