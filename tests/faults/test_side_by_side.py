"""Two processes at once, on the same night and on two nights.

first:   ── into a phase ── waits ────────────────────────── goes on ──▶ exit code
second:                      └─ from its begin to its end ─┘
"""

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from night_jobs import (
    NIGHTS,
    Job,
    assert_equal_tables,
    assert_same_nights,
    broken_promises,
    encode,
    generate,
    personas_of,
    stray_files,
)
from undisturbed import Nights
from victims import CONTEXT, Moment, Wait, finished, said, start

NEXT = NIGHTS[1] + timedelta(days=1)
encode_next: Job = partial(encode, night=NEXT)


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    said: str


def side_by_side(first: Job, second: Job, folder: Path, moment: tuple[str, int]) -> tuple[Ended, Ended]:
    """Run the second job from its begin to its end while the first waits inside a phase."""
    same = folder.with_name(f"{folder.name}-again")
    same.symlink_to(folder)  # another name, so that the processes leave what they say in two files
    wait = Wait(CONTEXT.Event(), CONTEXT.Event())
    process = start(first, folder, Moment(*moment, wait))
    assert wait.reached.wait(300), "the first process did not get that far"
    code = finished(second, same)
    wait.go_on.set()
    process.join()
    return Ended(process.exitcode, said(folder)), Ended(code, said(same))


@pytest.mark.parametrize(
    ("job", "phase"), [(encode, "encoding"), (encode, "committing"), (generate, "generating"), (generate, "committing")]
)
def test_of_two_processes_on_one_night_one_publishes_and_the_other_says_so(
    job: Job, phase: str, nights: Nights
) -> None:
    folder = nights.copy_before(job)
    first, second = side_by_side(job, job, folder, (phase, nights.calls[job][phase] // 2))
    assert (first.code, second.code) == (0, 1), first.said
    (line,) = second.said.splitlines()
    assert line.startswith(f"{job.__name__} ds={NIGHTS[1]} is running already (run 20")
    assert_same_nights(folder, nights.after(job))


def test_two_nights_side_by_side_are_those_of_two_nights_in_a_row(nights: Nights) -> None:
    serial, folder = nights.copy_before(encode), nights.copy_before(encode)
    assert (finished(encode, serial), finished(encode_next, serial)) == (0, 0)
    ended = side_by_side(encode, encode_next, folder, ("encoding", nights.calls[encode]["encoding"] // 2))
    assert [each.code for each in ended] == [0, 0], ended
    assert_equal_tables(*(personas_of(where) for where in (folder, serial)), "personas")
    assert broken_promises(folder) == []
    assert stray_files(folder) == []
