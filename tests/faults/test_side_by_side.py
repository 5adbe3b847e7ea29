"""Two processes at once, on the same night and on two nights.

first:   ── into a phase ── waits ────────────────────────── goes on ──▶ exit code
second:                      └─ from its begin to its end ─┘
"""

from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from night_jobs import NIGHTS, Job, assert_equal_tables, assert_same_nights, broken_promises, encode, rows_of
from undisturbed import Nights
from victims import CONTEXT, Moment, Wait, finished, said, start

NEXT = NIGHTS[1] + timedelta(days=1)
encode_next: Job = partial(encode, night=NEXT)


def codes_of(first: Job, second: Job, folder: Path, moment: tuple[str, int]) -> dict[Path, int]:
    """Run the second job while the first waits inside a phase; the exit code of each, by the name of its folder."""
    same = folder.with_name(f"{folder.name}-again")
    same.symlink_to(folder)  # another name, so that the processes leave what they say in two files
    wait = Wait(CONTEXT.Event(), CONTEXT.Event())
    process = start(first, folder, Moment(*moment, wait))
    assert wait.reached.wait(300), "the first process did not get that far"
    codes = {same: finished(second, same)}
    wait.go_on.set()
    process.join()
    return codes | {folder: process.exitcode}


@pytest.mark.parametrize("phase", ["encoding", "committing"])
def test_of_two_processes_on_one_night_one_publishes_and_the_other_does_no_harm(phase: str, nights: Nights) -> None:
    folder = nights.copy_before(encode)
    codes = codes_of(encode, encode, folder, (phase, nights.calls[encode][phase] // 2))
    assert 0 in codes.values()
    for name in (name for name, code in codes.items() if code):
        assert codes[name] == 1
        assert "run" in said(name).splitlines()[-1]
    assert_same_nights(folder, nights.after(encode))


def test_two_nights_side_by_side_are_those_of_two_nights_in_a_row(nights: Nights) -> None:
    serial, folder = nights.copy_before(encode), nights.copy_before(encode)
    assert (finished(encode, serial), finished(encode_next, serial)) == (0, 0)
    codes = codes_of(encode, encode_next, folder, ("encoding", nights.calls[encode]["encoding"] // 2))
    assert set(codes.values()) == {0}
    assert_equal_tables(*(rows_of(where)["persona_vectors"] for where in (folder, serial)), "persona_vectors")
    assert broken_promises(folder) == []
