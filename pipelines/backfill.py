"""Run the nights of a range that are missing or no longer true: an input or a setting changed since.

first night ... last night ─▶ state of each ─▶ those not done, the oldest first ─▶ how each ended

A night that is done is skipped, so a backfill that was stopped goes on where it was.
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from functools import partial

from embedder.errors import InputMissing, UsageError
from pipelines.nights.job import NightJob
from pipelines.nights.night import cut, run_night
from pipelines.nights.plans import Plan
from pipelines.nights.published import DONE
from pipelines.nights.runners import Runner
from pipelines.nights.runs import Clock, Progress, no_progress, utc_now
from pipelines.nights.steps import Step, run_step
from pipelines.tables.views import asked_table
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)


def nights_with_histories(warehouse: Warehouse, start: date, end: date, clock: Clock = utc_now) -> list[date]:
    """Choose every day of a range as of which there are histories; none still to come, unless it has items already.

    Raises:
        InputMissing: if there is none.
        UsageError: if the range ends before it starts.
    """
    [there] = asked_table(warehouse, "histories", "jobs/first_history").to_pylist()
    asked = [ds for ds in days(start, end) if there["ds"] is not None and ds >= there["ds"]]
    last = max(clock().date(), there["last_ds"] or start)
    nights = [ds for ds in asked if ds <= last]
    if len(nights) < len(asked):
        logger.warning("the nights after %s have no data yet and are left out", last)
    if not nights:
        raise InputMissing(f"no histories as of {end}: run `pplug ingest histories FILE --ds {start}`")
    return nights


def nights_with_tasks(warehouse: Warehouse, start: date, end: date) -> list[date]:
    """Choose every day of a range that has tasks.

    Raises:
        InputMissing: if there is none.
        UsageError: if the range ends before it starts.
    """
    queued = set(asked_table(warehouse, "tasks", "jobs/task_nights")["ds"].to_pylist())
    nights = [ds for ds in days(start, end) if ds in queued]
    if not nights:
        raise InputMissing(f"no tasks from {start} to {end}: run `pplug ingest tasks FILE --ds {start}`")
    return nights


def days(start: date, end: date) -> list[date]:
    """Every day of a range, both ends included; raises UsageError if it ends before it starts."""
    if end < start:
        raise UsageError(f"--end {end} is before --start {start}: write --start {end} --end {start}")
    return [start + timedelta(days=number) for number in range((end - start).days + 1)]


def run_nights(
    job: NightJob,
    warehouse: Warehouse,
    nights: Sequence[date],
    max_reject_rate: float,
    progress: Progress = no_progress,
    runner: Runner | None = None,
) -> Iterator[Step]:
    """Run those of some nights that must be run, the oldest first, and tell how each ended; a failure stops none."""
    job = job.decided(warehouse)
    for ds in nights:
        if job.inputs(warehouse, ds).published()[0] != DONE:  # asked now: it may stand on one that was just run
            yield run_step(job.name, ds, partial(run_night, job, warehouse, ds, progress, runner), max_reject_rate)


def plan_nights(job: NightJob, warehouse: Warehouse, nights: Sequence[date]) -> list[Plan]:
    """Say what `run_nights` would do; nothing is written."""
    job, planned = job.decided(warehouse), set[int]()
    todo = [inputs for ds in nights if (inputs := job.inputs(warehouse, ds)).published()[0] != DONE]
    return [job.estimate(inputs, cut(job, inputs), planned) for inputs in todo]
