"""Run the nights of a range that are missing or no longer true: an input or a setting changed since.

first night ... last night ─▶ state of each ─▶ those not done, the oldest first ─▶ how each ended

A night that is done is skipped, so a backfill that was stopped goes on where it was.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from embedder.errors import InputMissing, UsageError
from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig, load_models, load_plugs
from pipelines.encode import JOB as JOB_ENCODE
from pipelines.encode import EncodeConfig, encode_inputs, encode_night, plan_encode
from pipelines.generate import JOB as JOB_GENERATE
from pipelines.generate import generate_inputs, generate_night, plan_generate
from pipelines.nights.plans import Plan
from pipelines.nights.precisions import with_precisions
from pipelines.nights.published import DONE, NightInputs
from pipelines.nights.runs import Clock, Progress, RunRecord, no_progress, utc_now
from pipelines.nights.steps import Step, run_step
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backfill:
    """A job and the nights of a range that have anything to work on."""

    job: str
    nights: Sequence[date]
    """The oldest first."""
    inputs: Callable[[date], NightInputs]
    """What a night is made from."""
    plans: Callable[[Sequence[date]], Iterable[Plan]]
    """What nights cost, each after those before it."""
    run: Callable[[date], RunRecord]

    def todo(self) -> list[date]:
        """The nights that must be run."""
        return [ds for ds in self.nights if self.inputs(ds).state() != DONE]


def encode_backfill(
    warehouse: Warehouse,
    start: date,
    end: date,
    config: EncodeConfig,
    kinds: Mapping[str, Kind],
    *,
    rebuild: bool = False,
    progress: Progress = no_progress,
    clock: Clock = utc_now,
) -> Backfill:
    """Every day of the range as of which there are histories; none that is still to come, unless it has items already.

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

    def plans(chosen: Sequence[date]) -> Iterable[Plan]:
        planned = set[int]()
        return (plan_encode(warehouse, ds, config, kinds, rebuild=rebuild, planned=planned) for ds in chosen)

    inputs = partial(encode_inputs, warehouse, config=config, kinds=kinds)
    run = partial(encode_night, warehouse, config=config, kinds=kinds, rebuild=rebuild, progress=progress)
    return Backfill(JOB_ENCODE, nights, inputs, plans, run)


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
) -> Backfill:
    """Every day of the range that has tasks.

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
    models = load_models(config)
    inputs = partial(generate_inputs, warehouse, models=models, plugs=load_plugs(plugs, models), kinds=kinds)
    what = {"plugs": plugs, "config": config, "kinds": kinds}
    run = partial(generate_night, warehouse, **what, max_persona_age=max_persona_age, progress=progress)
    plans = partial(map, partial(plan_generate, warehouse, **what))
    return Backfill(JOB_GENERATE, nights, inputs, plans, run)


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
    for ds in backfill.todo():
        yield run_step(backfill.job, ds, partial(backfill.run, ds), max_reject_rate)


def plan_nights(backfill: Backfill) -> list[Plan]:
    """What `run_nights` would do; nothing is written."""
    return list(backfill.plans(backfill.todo()))
