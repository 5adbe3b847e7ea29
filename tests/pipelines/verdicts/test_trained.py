from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from llm_jobs.training.checkpoint import EpochLoss
from pipelines.examples import Target
from pipelines.training_data import limited
from pipelines.verdicts.trained import next_line, training_verdict, what_data_allow

LOSSES = [EpochLoss(0, 2.0, 1.5), EpochLoss(1, 1.0, 1.2)]


@pytest.mark.parametrize(
    ("examples", "users", "is_closed", "words"),
    [
        (30, 5, True, "30 examples of 5 users: few; plugs began to be of use at about 200 examples of 10 users"),
        (5000, 300, True, "5,000 examples of 300 users: enough to learn from"),
        (
            30,
            5,
            False,
            "30 examples of 5 users: few; about 5,700 examples of 122 users made headlines a little personal",
        ),
        (9000, 300, False, "9,000 examples of 300 users: may be enough; about 5,700 examples of 122 users"),
    ],
)
def test_data_are_judged_before_a_training(examples: int, users: int, is_closed: bool, words: str) -> None:
    assert words in what_data_allow(examples, users, is_closed=is_closed)


@pytest.mark.parametrize(
    ("held_out", "without", "new", "words"),
    [
        (0, None, None, "Nobody was held out"),
        (
            7,
            2.4,
            None,
            "On 7 users that it had not met the plug's loss is 1.200; that of the language model alone is 2",
        ),
        (7, 2.4, None, "(50% less)."),
        (7, 1.1, 1.3, "no better than the language model alone (1.100): do not use it"),
        (7, 2.4, 1.3, "(50% less). Without their histories, as for new users, it is 1.300."),
        (7, 2.4, 2.5, "as for new users, it is 2.500, no better than the language model alone: for new users train"),
    ],
)
def test_a_training_ends_with_what_came_of_it(
    held_out: int, without: float | None, new: float | None, words: str
) -> None:
    assert words in training_verdict(LOSSES, held_out, without, new, is_closed=False)


@pytest.mark.parametrize(
    ("night", "references", "learned_from", "said"),
    [
        (
            5,
            3,
            (),
            "`pplug nightly --ds 2026-11-05 --plug 'a b'`, then `pplug evaluate --ds 2026-11-05 --plug 'a b' --cont",
        ),
        (5, 0, (), "next: `pplug nightly --ds 2026-11-05 --plug 'a b'`"),
        (5, 3, (date(2026, 11, 5),), "next: `pplug nightly --ds 2026-11-05 --plug 'a b'`"),
        (
            None,
            0,
            (),
            "next: `pplug ingest tasks FILE --ds 2026-11-09`, then `pplug nightly --ds 2026-11-09 --plug 'a b'`",
        ),
    ],
)
def test_what_comes_next_can_be_typed(night: int | None, references: int, learned_from: Any, said: str) -> None:
    queued = [{"ds": date(2026, 11, 2), "kind": "a", "reference_count": 9}]
    if night:
        queued.append({"ds": date(2026, 11, night), "kind": "b", "reference_count": references})
    line = next_line(Path("a b"), "b", queued, learned_from, date(2026, 11, 9))
    assert said in line
    assert ("evaluate" in line) == ("evaluate" in said)


def test_a_limit_takes_the_last_of_each_user_in_turn() -> None:
    names = "aaaabbc"
    found = [Target(name, f"{name}{at}", "t", "q", datetime.now(UTC)) for at, name in enumerate(names)]
    assert [target.prompt for target in limited(found, 4)] == ["a2", "a3", "b5", "c6"]
