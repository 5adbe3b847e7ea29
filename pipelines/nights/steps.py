"""Runs one after the other, where one that fails does not stop the rest."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

from embedder.errors import PplugError, error_line
from pipelines.nights.runs import RunRecord
from pipelines.store.leases import Refused

logger = logging.getLogger(__name__)

TOO_MANY_REJECTS = 3

REFUSED = "refused"
"""Status of a step that never began, because another run is at the same work or will not have any beside it."""

WORST_LAST = (0, TOO_MANY_REJECTS, 4, 2, 1)  # exit codes from good to bad


@dataclass(frozen=True)
class Step:
    """How one run ended."""

    job: str
    ds: date
    status: str
    exit_code: int
    seconds: float = 0.0
    rows_in: int = 0
    rows_out: int = 0
    rows_rejected: int = 0
    tokens: int = 0
    run_id: str = ""
    error: str = ""


class StepsFailed(PplugError):
    """Some of the steps did not end well; the exit code is that of the worst."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_step(job: str, ds: date, run: Callable[[], RunRecord], max_reject_rate: float) -> Step:
    """Run a job and say how it ended; only an interruption goes on to the caller."""
    try:
        record = run()
    except Exception as error:
        logger.debug("%s ds=%s failed", job, ds, exc_info=True)
        exit_code = error.exit_code if isinstance(error, PplugError) else 1
        status = REFUSED if isinstance(error, Refused) else "failed"
        return Step(job, ds, status, exit_code, error=error_line(error))
    is_rejected = record.rows_rejected > max_reject_rate * record.rows_in
    told = f"{record.rows_rejected} of {record.rows_in} rows rejected: run `pplug query reject_reasons`"
    taken_over = ("seconds", "rows_in", "rows_out", "rows_rejected", "tokens", "run_id")
    facts: dict[str, Any] = {name: getattr(record, name) for name in taken_over}
    exit_code, error = (TOO_MANY_REJECTS, told) if is_rejected else (0, "")
    return Step(job, ds, record.status, exit_code, error=error, **facts)


def raise_worst(steps: Iterable[Step]) -> None:
    """Raise StepsFailed, with the exit code of the worst, if some of the steps did not end well."""
    told = list(steps)
    bad = [step for step in told if step.exit_code]
    if bad:
        causes = "; ".join(f"{step.job} ds={step.ds}: {step.error}" for step in bad)
        code = max((step.exit_code for step in bad), key=WORST_LAST.index)
        raise StepsFailed(f"{len(bad)} of {len(told)} runs did not end well: {causes}", code)
