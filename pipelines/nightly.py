"""A whole night: encode, generate, check, each recorded in `runs`.

Where encoding fails the tasks are answered all the same, with the newest personas there are; `--max-persona-age` says
how old these may be. The next run of the same night then encodes, and answers with the new personas. Where encoding is
refused, because another run is at it, the night ends: that run's personas are the ones to answer with.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from functools import partial

from embedder.errors import PplugError
from pipelines.compact import JOB as COMPACT
from pipelines.compact import compaction_pays, run_compaction
from pipelines.nights.job import NightJob
from pipelines.nights.night import run_night
from pipelines.nights.runners import Runner
from pipelines.nights.runs import Progress, RunRecord, no_progress, recorded_run
from pipelines.nights.steps import REFUSED, Step, run_step
from pipelines.tables.queries import run_checks
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

CHECK = "check"  # job of the last step in `runs`


def run_nightly(
    warehouse: Warehouse,
    ds: date,
    jobs: Sequence[NightJob],
    max_reject_rate: float,
    progress: Progress = no_progress,
    runner: Runner | None = None,
) -> Iterator[Step]:
    """Run the jobs of a night and check it, up to the first step that is refused, and tell how each step ended."""
    steps = {job.name: partial(run_night, job, warehouse, ds, progress, runner) for job in jobs}
    for name, run in {**steps, CHECK: partial(check_night, warehouse, ds)}.items():
        step = run_step(name, ds, run, max_reject_rate)
        yield step
        if step.status == REFUSED:
            return
    if compaction_pays(warehouse):
        step = run_step(COMPACT, ds, lambda: run_compaction(warehouse)[0], max_reject_rate)
        if step.status != REFUSED:  # it waits for a night on which nothing else runs
            yield step


def check_night(warehouse: Warehouse, ds: date) -> RunRecord:
    """Run all checks of a night and record how many hold; raises PplugError if one does not."""
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
