"""A whole night: encode, generate, check, each recorded in `runs`.

Where encoding fails the tasks are answered all the same, with the newest personas there are; `--max-persona-age` says
how old these may be. The next run of the same night then encodes, and answers with the new personas. Where encoding is
refused, because another run is at it, the night ends: that run's personas are the ones to answer with.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

from embedder.errors import PplugError
from llm_jobs.kinds import Kind
from pipelines import encode, generate
from pipelines.answers.models import GenerateConfig
from pipelines.compact import JOB as COMPACT
from pipelines.compact import compaction_pays, run_compaction
from pipelines.encode import EncodeConfig, encode_night, plan_encode
from pipelines.generate import generate_night, plan_generate
from pipelines.nights.plans import Plan
from pipelines.nights.runners import Runner
from pipelines.nights.runs import Progress, RunRecord, no_progress, recorded_run
from pipelines.nights.steps import REFUSED, Step, run_step
from pipelines.tables.queries import run_checks
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

CHECK = "check"
"""Job of the last step in `runs`."""


@dataclass(frozen=True)
class Nightly:
    """What a whole night needs to know."""

    warehouse: Warehouse
    ds: date
    plugs: Sequence[Path]
    encode: EncodeConfig
    generate: GenerateConfig
    kinds: Mapping[str, Kind]
    force: bool = False
    """Compute everything anew."""
    rebuild: bool = False
    """Allow another encoder than that of the nights before."""
    max_persona_age: int | None = None
    """Most days between the night of the personas and this one."""
    runner: Runner | None = None
    """Who computes; this process unless given."""


def run_nightly(night: Nightly, max_reject_rate: float, progress: Progress = no_progress) -> Iterator[Step]:
    """Run the steps of a night, up to the first that is refused.

    Yields:
        How each step ended, when it is over.
    """
    what = (night.warehouse, night.ds)
    shared = {"force": night.force, "progress": progress, "runner": night.runner}
    encoding = partial(encode_night, *what, night.encode, night.kinds, rebuild=night.rebuild, **shared)
    given = (*what, night.plugs, night.generate, night.kinds)
    answering = partial(generate_night, *given, max_persona_age=night.max_persona_age, **shared)
    steps = {encode.JOB: encoding, generate.JOB: answering, CHECK: partial(check_night, *what)}
    for job, run in steps.items():
        step = run_step(job, night.ds, run, max_reject_rate)
        yield step
        if step.status == REFUSED:
            return
    if compaction_pays(night.warehouse):
        step = run_step(COMPACT, night.ds, lambda: run_compaction(night.warehouse)[0], max_reject_rate)
        if step.status != REFUSED:  # it waits for a night on which nothing else runs
            yield step


def check_night(warehouse: Warehouse, ds: date) -> RunRecord:
    """Run all checks of a night and record how many hold.

    Raises:
        PplugError: if one does not.
    """
    with recorded_run(warehouse, CHECK, ds, {}) as record:
        with connect(warehouse) as db:
            found = run_checks(db, ds)
        broken = [name for name, rows in found.items() if rows.num_rows]
        record.rows_in, record.rows_out = len(found), len(found) - len(broken)
        record.rows_rejected = len(broken)
        if broken:
            told = f"{len(broken)} of {len(found)} checks failed: {', '.join(broken)}"
            raise PplugError(f"{told}: run `pplug check --ds {ds}`")
    return record


def plan_nightly(night: Nightly) -> list[Plan]:
    """What `run_nightly` would do; nothing is written."""
    what = (night.warehouse, night.ds)
    return [
        plan_encode(*what, night.encode, night.kinds, force=night.force, rebuild=night.rebuild),
        plan_generate(*what, night.plugs, night.generate, night.kinds, force=night.force),
    ]
