"""The record of a run: one row of `runs`, written when the job ends, well or badly; by the next run if it is killed."""

import json
import logging
import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from enum import Enum, auto
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake.exceptions import DeltaError

from embedder.errors import PplugError
from pipelines.nights.leftovers import sweep
from pipelines.nights.running import marked_run
from pipelines.nights.shards import tokens_since
from pipelines.tables.job_lock import job_lock
from pipelines.tables.schema import TABLES
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime]

Progress = Callable[[str, int, int], None]
"""Called with what is being counted, how many are done and how many there are."""

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
        """The record as one row of `runs`."""
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
    warehouse: Warehouse,
    job: str,
    ds: date,
    config: Mapping[str, Any],
    excludes: Excludes = Excludes.NOTHING,
    clock: Clock = utc_now,
) -> Generator[RunRecord]:
    """Record what happens inside in `runs`, as its last commit, and then remove what runs that are over left behind.

    The caller fills in the row counts. An exception is recorded as `failed` and goes on. Runs that were killed are
    recorded first, as `killed`.

    Args:
        warehouse: written.
        job: what runs.
        ds: its night.
        config: its settings.
        excludes: which other runs may not go on meanwhile.
        clock: tells start and end.

    Raises:
        AlreadyRunning: if such a run goes on; then nothing is recorded.
        PplugError: if one that excludes all others goes on, or shall begin while others go on.
    """
    started_at = clock()
    run_id = f"{started_at:%Y%m%dT%H%M%S}-{job}-{secrets.token_hex(4)}"
    record = RunRecord(run_id, job, ds, started_at, config=config, versions={name: version(name) for name in VERSIONED})
    begun = {"run_id": run_id, "job": job, "ds": ds, "started_at": started_at, "config": config}
    name = f"{job}-{ds}" if excludes is Excludes.SAME_NIGHT else run_id
    with (
        job_lock(warehouse.root, is_alone=excludes is Excludes.ALL),
        marked_run(warehouse, name, begun, partial(_record_killed, warehouse)) as marker,
        named_in_logs(record),
    ):
        logger.debug("%s ds=%s begins", job, ds)
        try:
            yield record
        except BaseException as error:
            record.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            record.error, record.ended_at = error_line(error), clock()
            _record_failed(warehouse, record, marker)
            raise
        record.status, record.ended_at = "done", clock()
        warehouse.append("runs", ds, run_id, record.to_table())
        marker.unlink()
        sweep(warehouse, job, ds, started_at)
        logger.debug("%s ds=%s is done", job, ds)


def error_line(error: BaseException) -> str:
    """What `runs` keeps of an error."""
    said = str(error) if isinstance(error, PplugError) else f"{type(error).__name__}: {error}"
    return said.partition("\n")[0][:500]


def _record_failed(warehouse: Warehouse, record: RunRecord, marker: Path) -> None:
    """Record a run that failed; where not even that is possible, its marker stays and the next run records it."""
    try:
        warehouse.append("runs", record.ds, record.run_id, record.to_table())
        marker.unlink()
    except (PplugError, OSError, DeltaError) as error:  # the disk may be full: the first error is the one to tell
        logger.warning("run %s is not recorded: %s", record.run_id, error_line(error))


def _record_killed(warehouse: Warehouse, begun: Mapping[str, Any], ended_at: datetime) -> None:
    """Record a run that was killed, unless it was killed after it had recorded its end.

    Its lock is held, so every shard of the night that was finished since it began is its own.
    """
    run_id, ds = begun["run_id"], date.fromisoformat(begun["ds"])
    started_at = datetime.fromisoformat(begun["started_at"])
    with connect(warehouse, warehouse.versions(["runs"])) as db:
        if db.execute("select 1 from runs where run_id = $run_id", {"run_id": run_id}).fetchall():
            return
    record = RunRecord(run_id, begun["job"], ds, started_at, max(started_at, ended_at), "killed")
    record.config, record.error = begun["config"], "killed: the next run of the night goes on where it was"
    record.tokens = tokens_since(warehouse, record.job, ds, started_at)
    warehouse.append("runs", ds, run_id, record.to_table())
    logger.warning("%s ds=%s was killed (run %s, begun %s)", begun["job"], ds, run_id, begun["started_at"])


@contextmanager
def named_in_logs(record: RunRecord) -> Generator[None]:
    """Let every line that is logged meanwhile, in whatever thread, carry run, job and night."""
    plain = logging.getLogRecordFactory()

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = plain(*args, **kwargs)
        vars(made).update(run_id=record.run_id, job=record.job, ds=record.ds)
        return made

    logging.setLogRecordFactory(make)
    try:
        yield
    finally:
        logging.setLogRecordFactory(plain)
