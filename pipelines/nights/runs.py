"""The record of a run: one row of `runs`, written when the job ends, well or badly; by the next run if it is killed."""

import json
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from enum import Enum, auto
from functools import cache
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from deltalake.exceptions import DeltaError

from embedder.errors import PplugError, error_line
from pipelines.nights.shards import clear_night, tokens_of_run
from pipelines.store.leases import (
    LOOK_SECONDS,
    Fenced,
    Lease,
    LeasedRun,
    Refused,
    acquire,
    damaged_leases,
    kept_alive,
    runs_under_way,
)
from pipelines.tables.data_files import is_of_run
from pipelines.tables.schema import TABLES
from pipelines.tables.views import asked_table, connect
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime]

Progress = Callable[[str, int, int], None]
"""Called with what is being counted, how many are done and how many there are."""

ALONE = "alone"  # name of the lease of a run that all others wait for
PATIENCE = 15.0  # seconds to wait for runs that are in the way

VERSIONED = ("pplug", "apache-beam", "deltalake", "duckdb", "pyarrow", "torch", "transformers")
"""Packages whose versions can change a result."""


class Excludes(Enum):
    """Which other runs may not go on at the same time."""

    NOTHING = auto()
    SAME_NIGHT = auto()
    """Those of the same job and night."""
    ALL = auto()
    """All of the warehouse: for what deletes files that they may read."""


def no_progress(label: str, done: int, total: int) -> None:
    """For callers that show nothing."""


def utc_now() -> datetime:
    """The clock of real runs."""
    return datetime.now(UTC)


@cache
def package_versions() -> Mapping[str, str]:
    """The versions of the packages that can change a result, which do not change while a process lives."""
    return {name: version(name) for name in VERSIONED}


@dataclass
class RunRecord:
    """One run of one job; the columns of `runs`."""

    run_id: str
    job: str
    ds: date
    started_at: datetime
    ended_at: datetime | None = None
    status: str = "running"
    rows_in: int = 0
    rows_out: int = 0
    rows_rejected: int = 0
    tokens: int = 0
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    versions: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    """Of packages that can change a result, and of the Delta tables of which the run published a night."""
    error: str | None = None

    def to_table(self) -> pa.Table:
        row = asdict(self) | {
            "config": json.dumps(self.config, sort_keys=True, default=str),
            "versions": json.dumps(self.versions, sort_keys=True),
        }
        return pa.Table.from_pylist([row], schema=TABLES["runs"])

    @property
    def seconds(self) -> float:
        """How long it took; 0 while it runs."""
        return (self.ended_at - self.started_at).total_seconds() if self.ended_at else 0.0


@contextmanager
def recorded_run(
    warehouse: Warehouse, job: str, ds: date, config: Mapping[str, Any], excludes: Excludes = Excludes.NOTHING
) -> Generator[RunRecord]:
    """Record what happens inside in `runs`; see `leased_run`."""
    with leased_run(warehouse, job, ds, config, excludes) as (record, _):
        yield record


@contextmanager
def leased_run(
    warehouse: Warehouse, job: str, ds: date, config: Mapping[str, Any], excludes: Excludes = Excludes.NOTHING
) -> Generator[tuple[RunRecord, Lease]]:
    """Record what happens inside in `runs`, as its last commit, under a lease that workers can look for.

    The caller fills in the row counts. An exception is recorded as `failed` and goes on. Runs that were killed are
    recorded first, as `killed`, and what they left is removed.

    Raises:
        AlreadyRunning: if such a run goes on; then nothing is recorded.
        PplugError: if one that excludes all others goes on, or shall begin while others go on.
    """
    started_at = utc_now()
    run_id = f"{started_at:%Y%m%dT%H%M%S}-{job}-{secrets.token_hex(4)}"
    record = RunRecord(run_id, job, ds, started_at, config=config, versions=package_versions())
    begun = {"run_id": run_id, "job": job, "ds": ds, "started_at": started_at, "config": config}
    what = {Excludes.ALL: ALONE, Excludes.SAME_NIGHT: f"{job}-{ds}"}.get(excludes, run_id)
    lease, dead = acquire(warehouse.store, what, begun)
    is_recorded = False
    try:
        with kept_alive(lease), named_in_logs(record):
            for other in dead:
                end_killed(warehouse, other)
            make_room(warehouse, lease, is_alone=excludes is Excludes.ALL)
            logger.debug("%s ds=%s begins", job, ds)
            try:
                yield record, lease
                lease.require()
            except BaseException as error:
                is_recorded = _record_failed(warehouse, record, error)
                raise
            record.status, record.ended_at = "done", utc_now()
            warehouse.append("runs", ds, run_id, record.to_table())
            is_recorded = True
            if excludes is Excludes.SAME_NIGHT:
                clear_night(warehouse, job, ds)
            logger.debug("%s ds=%s is done", job, ds)
    finally:
        if is_recorded or record.status == "running":  # else it stays for the next run to record
            lease.release()


def make_room(warehouse: Warehouse, lease: Lease, *, is_alone: bool) -> None:
    """End the leases of dead runs, and wait for live ones that exclude this one, or that this one excludes.

    Raises:
        Refused: if one of them goes on for too long.
    """
    for name in damaged_leases(warehouse.store):
        logger.warning("%s/%s is empty or damaged, as a power loss leaves it: it is removed", warehouse, name)
        warehouse.store.delete([name])
    give_up = time.monotonic() + PATIENCE
    while True:
        others = [other for other in runs_under_way(warehouse.store) if other.lease.run_id != lease.run_id]
        dead = [other for other in others if other.seems_dead() and other.is_dead()]
        for other in dead:
            if other.lease.is_held():
                end_killed(warehouse, other)
        alive = [other for other in others if other not in dead and other.lease.is_held()]
        in_the_way = [other for other in alive if is_alone or other.lease.what == ALONE]
        if not in_the_way:
            return
        if time.monotonic() > give_up:
            job, run_id = (in_the_way[0].row[name] for name in ("job", "run_id"))
            told = f"`pplug {job}` is running in {warehouse} (run {run_id})"
            raise Refused(f"{told}: run the command again when it is done")
        time.sleep(LOOK_SECONDS)


def _record_failed(warehouse: Warehouse, record: RunRecord, error: BaseException) -> bool:
    """Record a run that failed; where not even that is possible, its lease stays and the next run records it."""
    record.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    record.error, record.ended_at = error_line(error)[:500], utc_now()
    if isinstance(error, Fenced):
        return False
    try:
        warehouse.append("runs", record.ds, record.run_id, record.to_table())
    except (PplugError, OSError, DeltaError) as second:  # the disk may be full: the first error is the one to tell
        logger.warning("run %s is not recorded: %s", record.run_id, error_line(second))
        return False
    sweep(warehouse, record.run_id)
    return True


def end_killed(warehouse: Warehouse, dead: LeasedRun) -> None:
    """Record a run that was killed, unless it was killed after it had recorded its end; then end its lease.

    Whatever is left of it finds its lease gone from then on, and what it left in the store is removed.
    """
    run_id, job, ds = dead.row["run_id"], dead.row["job"], date.fromisoformat(dead.row["ds"])
    started_at = datetime.fromisoformat(dead.row["started_at"])
    with connect(warehouse, files={"runs": warehouse.live("runs")}) as db:
        is_recorded = bool(db.execute("select 1 from runs where run_id = $run_id", {"run_id": run_id}).fetchall())
    dead.lease.release()
    if not is_recorded:
        record = RunRecord(run_id, job, ds, started_at, max(started_at, dead.last_life), "killed")
        record.config, record.error = dead.row["config"], "killed: the next run of the night goes on where it was"
        record.tokens = tokens_of_run(warehouse.store, job, ds, run_id)
        warehouse.append("runs", ds, run_id, record.to_table())
        logger.warning("%s ds=%s was killed (run %s, begun %s)", job, ds, run_id, dead.row["started_at"])
    sweep(warehouse, run_id)


def sweep(warehouse: Warehouse, run_id: str) -> None:
    """Remove what is named after a run that is over: its files in tables, unless they are live, and its staging.

    Files of finished shards stay: the next run of the night takes them over. What Delta does not know goes with the
    next vacuum.
    """
    for table in TABLES:
        there = [entry.name for entry in warehouse.store.list(table) if is_of_run(entry.name, run_id)]
        live = {file.name for file in warehouse.live(table)} if there else set[str]()
        warehouse.store.delete(name for name in there if name not in live)
        warehouse.store.delete_unfinished(table, run_id)
    if warehouse.store.folder is not None:
        for folder in (warehouse.root / "_staging").glob("*"):
            if run_id in (folder.name, folder.name.rpartition("_")[0]):  # a run's own name may hold a `_` as well
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def named_in_logs(record: RunRecord) -> Generator[None]:
    """Let every line that is logged meanwhile, in whatever thread, carry run, job and night."""
    before = logging.getLogRecordFactory()
    names = {"run_id": record.run_id, "job": record.job, "ds": record.ds}

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = before(*args, **kwargs)
        vars(made).update(names)
        return made

    logging.setLogRecordFactory(make)
    try:
        yield
    finally:
        names.clear()  # a run that began meanwhile in another thread may end later, and give this one back
        if logging.getLogRecordFactory() is make:
            logging.setLogRecordFactory(before)


def list_runs(warehouse: Warehouse, ds: date | None = None, job: str | None = None) -> Iterator[dict[str, Any]]:
    """Runs that are in no table yet, then all others, the newest first; only those of a night and a job if given."""
    recorded = asked_table(warehouse, "runs", "jobs/recorded_runs")
    over = recorded.to_pylist()
    begun = [_as_row(other, recorded.column_names) for other in runs_under_way(warehouse.store)]
    known = {row["run_id"] for row in over}
    for row in [*(run for run in begun if run["run_id"] not in known), *over]:
        if ds in (None, row["ds"]) and job in (None, row["job"]):
            yield row


def _as_row(run: LeasedRun, columns: Sequence[str]) -> dict[str, Any]:
    """A run under way with the columns of one that is over; what is not known yet is null."""
    started_at = datetime.fromisoformat(run.row["started_at"])
    return dict.fromkeys(columns) | {
        **run.row,
        "ds": date.fromisoformat(run.row["ds"]),
        "status": "killed" if run.seems_dead() else "running",
        "seconds": (utc_now() - started_at).total_seconds(),
        "started_at": started_at.astimezone(UTC).replace(tzinfo=None),  # as DuckDB gives it
        "config": json.dumps(run.row["config"]),
    }
