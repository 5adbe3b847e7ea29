"""What a job would do, without doing it: the rows of `--dry-run`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse


@dataclass(frozen=True)
class Plan:
    """The size of a job."""

    job: str
    ds: date
    user_count: int
    row_count: int
    """Items or tasks."""
    unique_text_count: int
    """Different texts that a model must read."""
    tokens: int
    """Tokens of these texts."""
    seconds: float
    """Estimated time."""


def tokens_per_second(warehouse: Warehouse, job: str, sample: Callable[[], object], sample_tokens: int) -> float:
    """The speed of the last run of a job, or of a sample where it never ran.

    Args:
        warehouse: its `runs` are read.
        job: name of the job.
        sample: does a little of the job's work.
        sample_tokens: tokens of that work; 0 where there is no work at all.
    """
    with connect(warehouse) as db:
        last = run_sql(db, "jobs/last_speed", {"job": job}).to_pylist()
    if last:
        return last[0]["tokens_per_second"]
    if not sample_tokens:
        return 1.0  # of no tokens
    start = time.perf_counter()
    sample()
    return sample_tokens / (time.perf_counter() - start)
