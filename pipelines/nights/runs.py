"""The record of a run: one row of `runs`, written when the job ends, well or badly."""

import json
import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from pipelines.tables.job_lock import job_lock
from pipelines.tables.schema import TABLES
from pipelines.tables.warehouse import Warehouse

Clock = Callable[[], datetime]

Progress = Callable[[str, int, int], None]
"""Called with what is being counted, how many are done and how many there are."""

VERSIONED = ("pplug", "apache-beam", "deltalake", "duckdb", "pyarrow", "torch", "transformers")
"""Packages whose versions can change a result."""


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
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
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
    clock: Clock = utc_now,
    *,
    is_alone: bool = False,
) -> Generator[RunRecord]:
    """Record what happens inside in `runs`, as its last commit.

    The caller fills in the row counts. An exception is recorded as `failed` and goes on. While a run that `is_alone`
    goes on, no other run can; the others go side by side.
    """
    with job_lock(warehouse.root, is_alone=is_alone), _written_at_end(warehouse, job, ds, config, clock) as record:
        yield record


@contextmanager
def _written_at_end(
    warehouse: Warehouse, job: str, ds: date, config: Mapping[str, Any], clock: Clock
) -> Generator[RunRecord]:
    started_at = clock()
    run_id = f"{started_at:%Y%m%dT%H%M%S}-{job}-{secrets.token_hex(4)}"
    record = RunRecord(run_id, job, ds, started_at, config=config, versions={name: version(name) for name in VERSIONED})
    try:
        yield record
    except BaseException as error:
        record.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        record.error = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        raise
    else:
        record.status = "done"
    finally:
        record.ended_at = clock()
        warehouse.append("runs", ds, run_id, record.to_table())
