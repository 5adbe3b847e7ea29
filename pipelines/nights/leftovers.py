"""Remove what runs that are over left lying about: unfinished files, and finished ones that no commit names.

Only what surely belongs to nobody goes: its run is in `runs`, so it has ended; its process is gone; or, where a file
names neither, it is older than every run under way. So other nights may go on side by side.
"""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.nights.running import runs_under_way
from pipelines.nights.shards import remove_shards
from pipelines.tables.schema import TABLES
from pipelines.tables.views import SPILL, connect
from pipelines.tables.warehouse import Warehouse, run_of


def sweep(warehouse: Warehouse, job: str, ds: date, started_at: datetime) -> None:
    """Remove the leftovers of all runs that are over, and the shards of a night that is published.

    Args:
        warehouse: whose folders are looked through.
        job: what has just been recorded as done, and still holds its lock.
        ds: its night.
        started_at: its start.
    """
    remove_shards(warehouse, job, ds)
    with connect(warehouse, warehouse.versions(["runs"])) as db:
        rows = db.sql("select run_id, status from runs").fetchall()
    ended, failed = {row[0] for row in rows}, {row[0] for row in rows if row[1] != "done"}
    for path in [*_staged(warehouse, ended), *_spilled(warehouse)]:
        shutil.rmtree(path, ignore_errors=True)
    first_start = min([started_at, *(datetime.fromisoformat(run["started_at"]) for run in runs_under_way(warehouse))])
    for name in TABLES:
        for path in [*_unnamed(warehouse.folder(name), failed), *_half_commits(warehouse.folder(name), first_start)]:
            path.unlink(missing_ok=True)


def _staged(warehouse: Warehouse, ended: set[str]) -> Iterator[Path]:
    """Folders of unfinished files; each is named after its run, some with `_` and more behind it."""
    for folder in (warehouse.root / "_staging").glob("*"):
        if ended & {folder.name, folder.name.rpartition("_")[0]}:  # a run's own name may hold a `_` as well
            yield folder


def _spilled(warehouse: Warehouse) -> Iterator[Path]:
    """Folders of DuckDB's temporary files whose process, on this machine, is gone."""
    for folder in warehouse.root.glob(f"{SPILL}*"):
        process, _, machine = folder.name.removeprefix(SPILL).rpartition("-")[0].partition("-")
        if machine == socket.gethostname() and not _lives(process):
            yield folder


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        return True
    return True


def _unnamed(folder: Path, failed: set[str]) -> Iterator[Path]:
    """Files that runs which failed put into a table without a commit.

    `failed` must be known before the files are listed, and these before the log is read: then a run under way can
    neither be among the failed ones nor have committed a file that seems unnamed.
    """
    suspects = [path for path in folder.glob("ds=*/*.parquet") if run_of(path) in failed]
    named = _named_files(folder) if suspects else set[str]()
    return (path for path in suspects if f"{path.parent.name}/{path.name}" not in named)


def _named_files(folder: Path) -> set[str]:
    """Every file that the Delta log names, in whatever version."""
    named = set[str]()
    for entry in (folder / "_delta_log").glob("*.json"):
        with contextlib.suppress(FileNotFoundError):  # an old entry that Delta cleaned up meanwhile
            actions = [json.loads(line) for line in entry.read_text(encoding="utf8").splitlines()]
            named |= {action[kind]["path"] for action in actions for kind in ("add", "remove") if kind in action}
    for entry in (folder / "_delta_log").glob("*.checkpoint*.parquet"):
        table = pq.read_table(entry, columns=["add.path", "remove.path"]).flatten()
        named |= {path for column in table.columns for path in column.to_pylist() if path}
    return named


def _half_commits(folder: Path, first_start: datetime) -> Iterator[Path]:
    """Commits that were never finished; they live for a moment only and name no run."""
    for path in (folder / "_delta_log").glob("*"):
        if path.suffix not in (".json", ".parquet", ".crc") and path.name != "_last_checkpoint":
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < first_start.timestamp():
                    yield path
