"""A job is killed at a random moment and run again: its tables equal those of a job that nothing disturbed."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from night_jobs import JOBS, Job, assert_same_nights, assert_whole_nights
from undisturbed import Nights
from victims import PHASES, Moment, finished, finished_after_a_kill, said, start

Count = Callable[[int, int], int]


def killed_in(phase: str, job: Job, nights: Nights, rng: random.Random) -> Path:
    """The folder of a job that was killed inside a phase, at a call or a return drawn at random."""
    while True:
        folder = nights.copy_before(job)
        moment = Moment(phase, rng.randint(1, nights.calls[job][phase]))
        code = finished(job, folder, moment)
        if code == -signal.SIGKILL:
            return folder
        assert code == 0, said(folder)  # a garbage collection less, and the number was not reached: draw again
        shutil.rmtree(folder)


def killed_at_any_time(job: Job, nights: Nights, rng: random.Random) -> Path:
    """The folder of a job that was killed from outside, wherever it was: in a library's own code too."""
    started_at = time.perf_counter()
    assert finished(job, nights.copy_before(job)) == 0
    seconds = time.perf_counter() - started_at
    while True:
        folder = nights.copy_before(job)
        process = start(job, folder)
        process.join(rng.uniform(0, seconds))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            return folder
        assert process.exitcode == 0, said(folder)  # it was faster than the undisturbed one: draw again
        shutil.rmtree(folder)


def assert_a_rerun_mends(job: Job, folder: Path, nights: Nights) -> None:
    assert_whole_nights(folder, nights.before(job), nights.after(job))
    assert finished_after_a_kill(job, folder) == 0, said(folder)
    assert_same_nights(folder, nights.after(job))
    shutil.rmtree(folder)


@pytest.mark.parametrize("phase", PHASES)
def test_a_kill_inside_a_phase_loses_nothing_and_doubles_nothing(phase: str, nights: Nights, count: Count) -> None:
    jobs = [job for job in JOBS if phase in nights.calls[job]]
    for number in range(count(1, 10)):
        job, rng = jobs[number % len(jobs)], random.Random(f"{phase} {number}")
        assert_a_rerun_mends(job, killed_in(phase, job, nights, rng), nights)


def test_a_kill_at_any_time_loses_nothing_and_doubles_nothing(nights: Nights, count: Count) -> None:
    for number in range(count(1, 10)):
        job, rng = JOBS[number % len(JOBS)], random.Random(f"any time {number}")
        assert_a_rerun_mends(job, killed_at_any_time(job, nights, rng), nights)
