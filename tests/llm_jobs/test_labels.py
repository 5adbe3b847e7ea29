import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jobs.labels import best_label, fixed_labels, label_key, label_of, spelled_as

CHOICES = ("sports", "food & drink", "5", "4.5")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("sports", "sports"),
        ("Sports", "sports"),
        (" SPORTS\n", "sports"),
        ("Food  &\tDrink", "food & drink"),
        ("".join(chr(ord(letter) + 0xFEE0) for letter in "sports"), "sports"),
        ("5.0", "5"),
        ("05", "5"),
        ("+5", "5"),
        ("4.50", "4.5"),
        ("\N{FULLWIDTH DIGIT FOUR}.5", "4.5"),
        ("-5", None),
        ("5.", None),
        ("50", None),
        ("sport", None),
        ("", None),
    ],
)
def test_a_text_names_the_choice_that_differs_in_case_space_or_zeros_alone(text: str, choice: str | None) -> None:
    assert label_of(text, CHOICES) == choice
    assert spelled_as(text, CHOICES) == (choice or text)


def test_of_choices_that_differ_in_case_alone_only_the_same_text_is_named() -> None:
    assert label_of("a", ("A", "a")) == "a"
    assert label_of(" a", ("A", "a")) is None


@given(st.text(max_size=8), st.lists(st.text(max_size=4), max_size=4), st.randoms())
def test_a_named_choice_names_itself_and_the_order_of_choices_is_irrelevant(
    text: str, choices: list[str], source: random.Random
) -> None:
    named = label_of(text, choices)
    mixed = source.sample(choices, len(choices))
    assert label_of(text, mixed) == named
    if named is not None:
        assert label_key(named) == label_key(text)
        assert label_of(named, choices) == named


@given(st.integers(-(10**40), 10**40), st.integers(0, 3), st.integers(0, 3))
def test_zeros_around_a_number_do_not_change_its_key(number: int, before: int, after: int) -> None:
    sign, digits = ("-" if number < 0 else ""), str(abs(number))
    spelled = f"{sign}{'0' * before}{digits}{'.' if after else ''}{'0' * after}"
    assert label_key(spelled) == str(number)
    assert label_key(f"{number}.5{'0' * after}") == f"{number}.5"


@pytest.mark.parametrize(
    ("carried", "own", "labels"),
    [
        ([], None, None),
        ([], ["a", "b"], ("a", "b")),
        ([None, None], ["a", "b"], ("a", "b")),
        ([["x", "y"], ["y", "x"]], ["a", "b"], ("x", "y")),
        ([["x", "y"], None], ["x", "y"], ("x", "y")),
        ([["x", "y"], None], ["a", "b"], None),
        ([["x", "y"], ["x", "z"]], ["a", "b"], None),
        ([["x", "y"], None], None, None),
    ],
)
def test_labels_are_fixed_where_all_tasks_share_them(
    carried: list[list[str] | None], own: list[str] | None, labels: tuple[str, ...] | None
) -> None:
    assert fixed_labels(carried, own) == labels


drawn_ratings = st.dictionaries(st.integers(-9, 9), st.integers(1, 99), min_size=1, max_size=6)


@given(drawn_ratings, st.randoms())
def test_of_a_scale_no_label_is_nearer_on_average_than_the_one_that_is_answered(
    drawn: dict[int, int], order: random.Random
) -> None:
    labels = [f"{number}.0" for number in drawn]
    order.shuffle(labels)
    shares = np.array([drawn[int(float(label))] for label in labels], np.float32)
    best, _ = best_label(shares, labels, is_scale=True)
    errors = [sum(drawn[one] * abs(one - float(label)) for one in drawn) for label in labels]
    assert errors[best] == min(errors)
    again, _ = best_label(shares[::-1], labels[::-1], is_scale=True)
    assert labels[best] == labels[::-1][again]


@given(drawn_ratings)
def test_where_labels_are_no_scale_the_most_probable_is_answered(drawn: dict[int, int]) -> None:
    shares = np.array(list(drawn.values()), float)
    for labels, is_scale in ((list(map(str, drawn)), False), ([f"of {number}" for number in drawn], True)):
        best, is_tied = best_label(shares, labels, is_scale=is_scale)
        assert best == list(shares).index(shares.max())
        assert is_tied == (list(shares).count(shares.max()) > 1)


def test_a_rating_between_two_halves_is_a_close_call() -> None:
    assert best_label(np.array([0.5, 0.0, 0.5]), ["1", "2", "3"], is_scale=True)[1]
    assert best_label(np.array([0.2, 0.6, 0.2]), ["1", "2", "3"], is_scale=True) == (1, False)
