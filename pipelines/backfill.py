"""Run the nights of a range that are missing or no longer true: an input or a setting changed since.

first night ... last night ─▶ state of each ─▶ those not done, the oldest first ─▶ how each ended

A night that is done is skipped, so a backfill that was stopped goes on where it was.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from embedder.errors import InputMissing, UsageError
from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig, EncodeJob, encode_job
from pipelines.generate import GenerateJob, generate_job
from pipelines.nights.night import cut, run_night
from pipelines.nights.plans import Plan
from pipelines.nights.precisions import with_precisions
from pipelines.nights.published import DONE
from pipelines.nights.runners import Runner
from pipelines.nights.runs import Clock, Progress, no_progress, utc_now
from pipelines.nights.steps import Step, run_step
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backfill:
    """A job and the nights of a range that have anything to work on."""

    warehouse: Warehouse
    job: EncodeJob | GenerateJob
    nights: Sequence[date]
    """The oldest first."""
    progress: Progress = no_progress
    runner: Runner | None = None

    def todo(self) -> list[date]:
        """The nights that must be run."""
        return [ds for ds in self.nights if self.state(ds) != DONE]

    def state(self, ds: date) -> str:
        """DONE, or why a night must be run."""
        return self.job.inputs(self.warehouse, ds).state()


def encode_backfill(
    warehouse: Warehouse,
    start: date,
    end: date,
    config: EncodeConfig,
    kinds: Mapping[str, Kind],
    *,
    rebuild: bool = False,
    progress: Progress = no_progress,
    runner: Runner | None = None,
    clock: Clock = utc_now,
) -> Backfill:
    """Choose every day of a range as of which there are histories; none still to come, unless it has items already.

    Raises:
        InputMissing: if there is none.
        UsageError: if the range ends before it starts.
    """
    with connect(warehouse, warehouse.versions(["histories"])) as db:
        [there] = run_sql(db, "jobs/first_history").to_pylist()
    asked = [ds for ds in days(start, end) if there["ds"] is not None and ds >= there["ds"]]
    last = max(clock().date(), there["last_ds"] or start)
    nights = [ds for ds in asked if ds <= last]
    if len(nights) < len(asked):
        logger.warning("the nights after %s have no data yet and are left out", last)
    if not nights:
        raise InputMissing(f"no histories as of {end}: run `pplug ingest histories FILE --ds {start}`")
    config = with_precisions(warehouse, config)
    job = encode_job(config, kinds, rebuild=rebuild, runner=runner)
    return Backfill(warehouse, job, nights, progress, runner)


def generate_backfill(
    warehouse: Warehouse,
    start: date,
    end: date,
    plugs: Sequence[Path],
    config: GenerateConfig,
    kinds: Mapping[str, Kind],
    *,
    max_persona_age: int | None = None,
    progress: Progress = no_progress,
    runner: Runner | None = None,
) -> Backfill:
    """Choose every day of a range that has tasks.

    Raises:
        InputMissing: if there is none.
        UsageError: if the range ends before it starts, or no plug is given.
    """
    if not plugs:
        raise UsageError("no plug to answer with: run `pplug backfill generate --start DATE --end DATE --plug DIR`")
    with connect(warehouse, warehouse.versions(["tasks"])) as db:
        queued = set(run_sql(db, "jobs/task_nights")["ds"].to_pylist())
    nights = [ds for ds in days(start, end) if ds in queued]
    if not nights:
        raise InputMissing(f"no tasks from {start} to {end}: run `pplug ingest tasks FILE --ds {start}`")
    config = with_precisions(warehouse, config)
    job = generate_job(plugs, config, kinds, max_persona_age=max_persona_age, runner=runner)
    return Backfill(warehouse, job, nights, progress, runner)


def days(start: date, end: date) -> list[date]:
    """Every day of a range, both ends included.

    Raises:
        UsageError: if it ends before it starts.
    """
    if end < start:
        raise UsageError(f"--end {end} is before --start {start}: write --start {end} --end {start}")
    return [start + timedelta(days=number) for number in range((end - start).days + 1)]


def run_nights(backfill: Backfill, max_reject_rate: float) -> Iterator[Step]:
    """Run the nights that must be run, the oldest first; one that fails does not stop the rest.

    Yields:
        How each of them ended, when it is over.
    """
    for ds in backfill.nights:
        if backfill.state(ds) == DONE:  # asked now: it may stand on one that was just run
            continue
        run = partial(run_night, backfill.job, backfill.warehouse, ds, backfill.progress, backfill.runner)
        yield run_step(backfill.job.name, ds, run, max_reject_rate)


def plan_nights(backfill: Backfill) -> list[Plan]:
    """Say what `run_nights` would do; nothing is written."""
    job, found, planned = backfill.job, list[Plan](), set[int]()
    for ds in backfill.todo():
        inputs = job.inputs(backfill.warehouse, ds)
        shards = cut(job, inputs)
        is_encoding = isinstance(job, EncodeJob)
        found.append(job.estimate(inputs, shards, planned) if is_encoding else job.estimate(inputs, shards))
    return found
