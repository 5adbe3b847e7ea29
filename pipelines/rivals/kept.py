"""What each rival has to keep of a user, in bytes: floats of 4 bytes, texts as UTF-8, ids and times left out."""

from collections.abc import Callable
from typing import Final

from pipelines.rivals.cases import Case

FLOAT_BYTES: Final = 4

Kept = Callable[[Case], int]
"""Bytes that are kept of a case's user."""


def kept_nothing(case: Case) -> int:
    """Nothing is kept of the user."""
    del case
    return 0


def kept_persona(case: Case) -> int:
    """The vectors of the persona, their counts, and the mean of the newest items."""
    return FLOAT_BYTES * sum(part.size for part in case.task.history) if len(case.task.history.vectors) else 0


def kept_mean(case: Case) -> int:
    """The mean of the vectors."""
    return FLOAT_BYTES * case.personal.task.size if len(case.task.history.vectors) else 0


def kept_texts(case: Case) -> int:
    """Texts and outputs of the items, as UTF-8."""
    return sum(len(f"{item.text}{item.output or ''}".encode("utf8", "replace")) for item in case.items)


def kept_vectors(case: Case) -> int:
    """A vector for each item."""
    return FLOAT_BYTES * sum(item.vector.size for item in case.items)


def kept_labelled_vectors(case: Case) -> int:
    """A vector and a label's number for each item."""
    return kept_vectors(case) + FLOAT_BYTES * len(case.items)


def kept_items(case: Case) -> int:
    """Texts and vectors of the items."""
    return kept_texts(case) + kept_vectors(case)


def kept_labels(case: Case) -> int:
    """A number for each label that the user ever gave."""
    return FLOAT_BYTES * len({item.output for item in case.labelled})
