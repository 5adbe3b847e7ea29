"""Which label a text names: one rule for choices, references and outputs, however people spell them.

    "Sports", " sports ", "SPORTS" ─▶ one key       "5", "5.0", "05", the number 5 ─▶ one key

A text is kept as it was written; wherever it is compared with choices, the choice with its key is taken in its place.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

TIE = 1e-4  # probabilities as near as that may be decided otherwise by rounding
LARGEST_RATING = 1e100  # beyond it a number is no rating, and its square would not fit a float

_NUMBER = re.compile(r"([+-]?)0*([0-9]+?)(?:\.(?=[0-9])([0-9]*?)0*)?")


@lru_cache(maxsize=10_000)
def label_key(text: str) -> str:
    """Reduce a label to what its spellings share: no case, space, compatible forms of Unicode, zeros of a number."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    if (number := _NUMBER.fullmatch(plain)) is None:
        return plain
    sign, whole, fraction = number.groups(default="")
    digits = f"{whole}.{fraction}" if fraction else whole
    return f"-{digits}" if sign == "-" and digits != "0" else digits


def label_of(text: str, choices: Sequence[str]) -> str | None:
    """Find the choice that a text names: the same text, else the only choice with its key; None if there is none."""
    if text in choices:
        return text
    key = label_key(text)
    same = [choice for choice in choices if label_key(choice) == key]
    return same[0] if len(same) == 1 else None


def spelled_as(text: str, choices: Sequence[str] | None) -> str:
    """Spell a text like the choice that it names; leave it as it is where it names none."""
    return label_of(text, choices or ()) or text


def fixed_labels(carried: Iterable[Sequence[str] | None], own: Sequence[str] | None) -> tuple[str, ...] | None:
    """Find the labels that all tasks of a kind can be answered with; None if tasks differ, or some are free.

    Args:
        carried: the choices of each task.
        own: those of the kind, for tasks that carry none.
    """
    lists = {tuple(choices or own or ()) for choices in carried}
    first = min(lists, default=tuple(own or ()))
    return first if first and all(set(one) == set(first) for one in lists) else None


def rating_of(text: str) -> float | None:
    """The number, or None; nan and inf, which `float` reads, are no ratings either."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) <= LARGEST_RATING else None


def best_label(probabilities: npt.NDArray[np.floating], labels: Sequence[str], *, is_scale: bool) -> tuple[int, bool]:
    """Which label to answer, and whether rounding could have decided otherwise.

    The most probable one, of equal ones the first. On a scale of numbers the median instead, of whose distance to the
    truth the expectation is least: between 3 and 5 with equal doubt it is 4, however improbable by itself.

    Args:
        probabilities: (C,) of each label, summing to anything above 0.
        labels: C of them.
        is_scale: whether they are ratings; labels that are no numbers are none.
    """
    ratings = [rating_of(label) for label in labels]
    if not is_scale or None in ratings:
        best = int(probabilities.argmax())
        return best, bool((probabilities >= probabilities[best] * (1 - TIE)).sum() > 1)
    order = np.argsort(np.array(ratings, float), kind="stable")
    below = np.cumsum(probabilities[order]) / probabilities.sum()
    return int(order[int((below >= 0.5 - 1e-9).argmax())]), bool((abs(below - 0.5) <= TIE).any())
