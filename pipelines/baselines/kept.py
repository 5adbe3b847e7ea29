"""What each method has to keep of a user, in bytes: vectors in 8 bits, texts as UTF-8, ids and times left out."""

from collections.abc import Callable
from typing import Final

from pipelines.baselines.cases import Case

NUMBER_BYTES: Final = 4
"""Of a scale, of a count and of the number that stands for a label."""

Kept = Callable[[Case], int]
"""Bytes that are kept of a case's user."""


def kept_nothing(case: Case) -> int:
    """Nothing is kept of the user."""
    del case
    return 0


def kept_persona(case: Case) -> int:
    """The vectors of the persona with their scales and counts, the labels behind each with their shares, the newest."""
    vectors, past = case.task.history.vectors, case.task.history.past
    labels = 2 * int((past.shares > 0).sum()) + len(past.newest)
    return vectors.size + NUMBER_BYTES * (2 * len(vectors) + labels)


def kept_mean(case: Case) -> int:
    """The mean of the vectors."""
    return case.personal.task.size + NUMBER_BYTES if len(case.task.history.vectors) else 0


def kept_texts(case: Case) -> int:
    """Texts and outputs of the items, as UTF-8."""
    return sum(len(f"{item.text}{item.output or ''}".encode("utf8", "replace")) for item in case.items)


def kept_vectors(case: Case) -> int:
    """A vector and its scale for each item."""
    return sum(item.vector.size + NUMBER_BYTES for item in case.items)


def kept_labelled_vectors(case: Case) -> int:
    """A vector and a label's number for each item."""
    return kept_vectors(case) + NUMBER_BYTES * len(case.items)


def kept_items(case: Case) -> int:
    """Texts and vectors of the items."""
    return kept_texts(case) + kept_vectors(case)


def kept_persona_and_items(case: Case) -> int:
    """Both, for a plug that also retrieves."""
    return kept_persona(case) + kept_items(case)


def kept_labels(case: Case) -> int:
    """A number for each label that the user ever gave."""
    return NUMBER_BYTES * len({item.output for item in case.labelled})
