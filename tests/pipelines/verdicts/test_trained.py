from datetime import UTC, datetime

import pytest

from llm_jobs.training.checkpoint import EpochLoss
from pipelines.examples import Target
from pipelines.training_data import limited
from pipelines.verdicts.trained import training_verdict, what_data_allow

LOSSES = [EpochLoss(0, 2.0, 1.5), EpochLoss(1, 1.0, 1.2)]


@pytest.mark.parametrize(
    ("examples", "users", "is_closed", "words"),
    [
        (30, 5, True, "30 examples of 5 users: few; plugs began to be of use at about 200 examples of 10 users"),
        (5000, 300, True, "5,000 examples of 300 users: enough to learn from"),
        (30, 5, False, "1,500 examples of 100 users is the least that we have measured"),
    ],
)
def test_data_are_judged_before_a_training(examples: int, users: int, is_closed: bool, words: str) -> None:
    assert words in what_data_allow(examples, users, is_closed=is_closed)


@pytest.mark.parametrize(
    ("held_out", "without", "words"),
    [
        (0, None, "Nobody was held out"),
        (7, 2.4, "On 7 users that it had not met the plug's loss is 1.200; that of the language model alone is 2.400"),
        (7, 1.1, "no better than the language model alone (1.100): do not use it"),
    ],
)
def test_a_training_ends_with_what_came_of_it(held_out: int, without: float | None, words: str) -> None:
    assert words in training_verdict(LOSSES, held_out, without, is_closed=False)


def test_a_limit_takes_the_last_of_each_user_in_turn() -> None:
    names = "aaaabbc"
    found = [Target(name, f"{name}{at}", "t", "q", datetime.now(UTC)) for at, name in enumerate(names)]
    assert [target.prompt for target in limited(found, 4)] == ["a2", "a3", "b5", "c6"]
