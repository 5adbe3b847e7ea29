"""Find a user again whose id was taken away: in the personas of another night, and by what they wrote since.

persona of a night before ─┬─▶ nearest persona of this night    ─▶ is it the same user?
                           └◀─ a text that came since, nearest  ─▶ is it its writer?
"""

import numpy as np
from numpy.typing import NDArray

from embedder.compact import FloatArray
from pipelines.audit.sample import Places

Floats = NDArray[np.float64]


def link_nights(before: FloatArray, now: FloatArray) -> Floats:
    """(A, 3) for each user with a persona in both nights: one, whether theirs is the nearest, and whether another's is.

    Args:
        before: (U, D) unit personas of the earlier night; 0 without one.
        now: (U, D) those of the other night.
    """
    there = np.flatnonzero(before.any(1) & now.any(1))
    if not len(there):
        return np.zeros((0, 3))
    nearest = np.argmax(before[there] @ now[there].T, axis=1)
    places = np.arange(len(there))
    other = np.roll(places, -1)
    return np.stack([np.ones(len(there)), nearest == places, (nearest == other) & (other != places)], 1).astype(float)


def link_items(before: FloatArray, items: FloatArray, owners: Places) -> Floats:
    """(A, 3) for each user with items that came since: how many, how many find their writer, and another user.

    Args:
        before: (U, D) unit personas of the earlier night; 0 without one.
        items: (F, D) vectors of items that came since.
        owners: (F,) place of each item's user.
    """
    there = np.flatnonzero(before.any(1))
    fresh = np.flatnonzero(np.isin(owners, there))
    if not len(fresh):
        return np.zeros((0, 3))
    nearest = there[np.argmax(items[fresh] @ before[there].T, axis=1)]
    users = np.unique(owners[fresh])
    other = dict(zip(there, np.roll(there, -1), strict=True))
    rows = [(owners[fresh] == user, user, other[user]) for user in users]
    return np.array(
        [[own.sum(), (nearest[own] == user).sum(), (nearest[own] == another).sum()] for own, user, another in rows],
        np.float64,
    )
