"""Kills of jobs whose warehouse is in a bucket: the same rows as in a folder, and nothing left of the killed one."""

import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from night_jobs import (
    BUCKET,
    Job,
    assert_equal_tables,
    assert_whole_nights,
    broken_promises,
    encode,
    generate,
    rows_of,
    undisturbed_rows,
    warehouse,
)
from s3_server import s3_server
from undisturbed import Nights
from victims import Moment, finished, finished_after_a_kill, said

from pipelines.store.stored import open_store

PHASES = ("committing", "writing shards", "encoding")


@pytest.fixture(scope="module")
def s3_options() -> Iterator[dict[str, str]]:
    with s3_server() as options:
        yield options


def copy_to_bucket(nights: Nights, job: Job, options: dict[str, str]) -> Path:
    """A folder for one run of a job, its warehouse in the bucket."""
    folder = nights.copy_before(job)
    uri = f"s3://bucket/{folder.name}"
    store, here = open_store(uri, options), folder / "warehouse"
    for path in here.rglob("*"):
        if path.is_file():
            store.put(path.relative_to(here).as_posix(), path)
    shutil.rmtree(here)
    (folder / BUCKET).write_text(json.dumps({"uri": uri, "options": options}), encoding="utf8")
    return folder


def killed_in(phase: str, job: Job, nights: Nights, options: dict[str, str], rng: random.Random) -> Path:
    """The folder of a job that was killed inside a phase, at a call or a return drawn at random."""
    while True:
        folder = copy_to_bucket(nights, job, options)
        code = finished(job, folder, Moment(phase, rng.randint(1, nights.calls[job][phase])))
        if code == -signal.SIGKILL:
            return folder
        assert code == 0, said(folder)  # the number was not reached: draw again


def test_a_kill_on_s3_loses_nothing_and_doubles_nothing(
    nights: Nights, s3_options: dict[str, str], count: Callable[[int, int], int]
) -> None:
    for number in range(count(1, 10)):
        phase, rng = PHASES[number % len(PHASES)], random.Random(f"s3 {number}")
        job = generate if phase in nights.calls[generate] and number % 2 else encode
        folder = killed_in(phase, job, nights, s3_options, rng)
        assert_whole_nights(folder, nights.before(job), nights.after(job))
        assert finished_after_a_kill(job, folder) == 0, said(folder)
        left, right = rows_of(folder), undisturbed_rows(nights.after(job))
        for name in right:
            assert_equal_tables(left[name], right[name], name)
        assert broken_promises(folder) == []
        left_over = [
            entry.name for entry in warehouse(folder).store.list() if entry.name.startswith(("_shards", "_run"))
        ]
        assert left_over == []
