"""What a user's history says of each choice of a closed task: how often, how near, how lately it was theirs.

    task, vectors ─▶ cosines ─┬─▶ votes with four sharpnesses ┐
    labels behind the vectors ┴─▶ counts, mean cosines ───────┼─▶ (C, E) a row for each choice
    newest labels ────────────▶ shares of the newest 3, 10, 30┘

A choice is known by what was done with it, never by its name: what is learned from these numbers holds for labels and
users that training never saw.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from embedder.compact import FloatArray
from embedder.histories import History

SHARPNESSES: Final = (5.0, 10.0, 20.0, 40.0)
"""Of the votes: an item whose cosine is .1 nearer to the task weighs e^.5 to e^4 times as much."""

NEWEST: Final = (3, 10, 30)
"""How many of the newest items with a label are looked at apart."""

COLUMNS: Final = (
    "items",
    *(f"vote {beta:g}" for beta in SHARPNESSES),
    "nearness",
    *(f"newest {k}" for k in NEWEST),
    "last",
)
"""What the numbers of a choice are: items with it; its share of each vote; mean cosine of its items and the task; its
share of the newest items; whether the newest item has it."""


class Evidence(NamedTuple):
    """What one history says of C choices, E = len(COLUMNS)."""

    choices: FloatArray
    """(C, E) see COLUMNS; all 0 for a choice that the user never made."""
    labelled: float
    """Items that have one of the choices."""
    nearest: float
    """The greatest cosine of the task and such an item; 0 without any."""


def label_evidence(task: FloatArray, history: History, choices: Sequence[str]) -> Evidence:
    """Look a task's choices up in a history.

    Args:
        task: (D,) encoded task input, of unit norm.
        history: the user's; outputs that are none of the choices count for nothing.
        choices: C different labels.
    """
    return evidence_of_scores(history.vectors @ task, history, choices)


def evidence_of_scores(scores: FloatArray, history: History, choices: Sequence[str]) -> Evidence:
    """`label_evidence` with the cosines (n,) known already."""
    found = np.zeros((len(choices), len(COLUMNS)), np.float32)
    place = {choice: at for at, choice in enumerate(choices)}
    past = history.past
    known = [(own, place[name]) for own, name in enumerate(past.names) if name in place]
    columns = sorted({column for _, column in known})
    items = np.zeros((len(history.counts), len(columns)), np.float32)  # of each choice behind each vector
    for own, column in known:
        items[:, columns.index(column)] += past.shares[:, own] * history.counts
    totals, mass = items.sum(0), items.sum(1)
    if not mass.any():
        return Evidence(found, 0.0, 0.0)
    nearest = float(scores[mass > 0].max())
    found[columns, 0] = totals
    for at, beta in enumerate(SHARPNESSES, start=1):
        votes = np.exp(beta * np.minimum(scores - nearest, 0)) @ items
        found[columns, at] = votes / votes.sum()
    at = 1 + len(SHARPNESSES)
    found[columns, at] = (scores @ items) / np.maximum(totals, np.finfo(np.float32).tiny)
    newest = [place[name] for name in (past.names[one] for one in past.newest) if name in place]
    for column, count in enumerate(NEWEST, start=at + 1):
        np.add.at(found[:, column], newest[-count:], np.float32(1 / max(1, len(newest[-count:]))))
    found[newest[-1:], -1] = 1
    return Evidence(found, float(totals.sum()), nearest)
