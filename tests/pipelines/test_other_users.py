import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.baselines.cases import other_users

users = st.sets(st.text(min_size=1, max_size=4), min_size=2, max_size=30)


@given(users, st.sets(st.text(min_size=1, max_size=4), max_size=5), st.integers(0, 1000))
def test_nobody_gets_his_own_and_donors_are_used_evenly(donors: set[str], new: set[str], seed: int) -> None:
    assignment = other_users([*donors, *new], list(donors), seed)
    assert assignment.keys() == donors | new
    assert all(user != other for user, other in assignment.items())
    assert {assignment[user] for user in donors} == donors
    assert set(assignment.values()) <= donors


@given(users, st.integers(0, 1000))
def test_the_draw_depends_on_the_seed_and_not_on_the_order(donors: set[str], seed: int) -> None:
    assert other_users(sorted(donors), sorted(donors), seed) == other_users(
        sorted(donors)[::-1], sorted(donors)[::-1], seed
    )


def test_one_user_cannot_be_another() -> None:
    with pytest.raises(ValueError, match="two users"):
        other_users(["a"], ["a"], 0)
