"""Every attack on one night, as rows of `evaluations`.

Known, Leak ─▶ of each user how much there was, how much the attack got, how much with another's vectors ─▶ shares
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial

import duckdb
import numpy as np
import torch

from embedder.compact import FloatArray
from embedder.encoder import TextEncoder
from embedder.errors import InputMissing
from embedder.histories import pad_histories
from embedder.plug import PersonaPlug
from llm_jobs.kinds import Kind
from llm_jobs.metrics import Floats, values_with_intervals
from pipelines.audit.inversion import invert
from pipelines.audit.sample import Known, Leak, Places, leaked_items, leaked_personas, read_known, unit_means
from pipelines.personas.nights import Nights, newest_nights, nights_of, nights_until
from pipelines.personas.stored import Persona, read_personas
from pipelines.tables import Row

Personas = Mapping[str, Persona]

Attack = Callable[[], Iterable[Row]]


@dataclass(frozen=True, eq=False)
class Scene:
    """A night as its attackers see it."""

    ds: date
    encoder: TextEncoder
    known: Known
    personas: Personas
    before: Nights | None  # the nights up to the one before; None if there is none

    @classmethod
    def of(
        cls,
        db: duckdb.DuckDBPyConnection,
        ds: date,
        kinds: Mapping[str, Kind],
        encoder: TextEncoder,
        users: int,
        seed: int,
    ) -> "Scene":
        """Read it.

        Raises:
            InputMissing: if there are no personas, or fewer than four users.
            PplugError: if they were made by another encoder.
        """
        every = nights_of(db)
        nights = newest_nights(every, ds, encoder.sha256)
        known = read_known(db, nights.last.ds, kinds, encoder, users, seed)
        if len(known.users) < 4:
            raise InputMissing(f"{len(known.users)} users have a history as of {ds}: an audit needs four or more")
        earlier = nights_until([night for night in every if night.ds < nights.last.ds])
        is_like = earlier is not None and earlier.last.encoder_sha256 == encoder.sha256
        personas = read_personas(db, nights.params, known.users, encoder.width)
        return cls(nights.last.ds, encoder, known, personas, earlier if is_like else None)


def attacks_on_tables(db: duckdb.DuckDBPyConnection, scene: Scene) -> list[Attack]:
    """Invert what is stored, and link it, if there is a night before."""
    known, width = scene.known, scene.encoder.width
    attacks: list[Attack] = [
        lambda: inverted("history_vectors", leaked_items(db, known, scene.ds, scene.encoder), known),
        lambda: inverted("personas", leaked_personas(known, scene.personas, width), known),
    ]
    return attacks if scene.before is None else [*attacks, partial(linked, db, scene, scene.before)]


def inverted(attacked: str, leak: Leak, known: Known) -> Iterator[Row]:
    """Read texts back from vectors."""
    found, overlap = invert(leak, known)
    yield from attack_rows(attacked, "texts-found", found)
    yield from attack_rows(attacked, "token-f1", overlap)


def linked(db: duckdb.DuckDBPyConnection, scene: Scene, before: Nights) -> Iterator[Row]:
    """Find users of the night before again by their personas, and by what they wrote since."""
    known, width = scene.known, scene.encoder.width
    then = unit_means(known, read_personas(db, before.params, known.users, width), width)
    yield from attack_rows("personas", "linked-nights", link_nights(then, unit_means(known, scene.personas, width)))
    fresh = np.array([night > before.last.ds for night in known.nights])
    yield from attack_rows("personas", "linked-items", link_items(then, known.vectors[fresh], known.owners[fresh]))


def attack_on_soft_prompts(scene: Scene, kind: str, plug: PersonaPlug) -> Iterator[Row]:
    """Invert what a plug of free answers tells the LLM of each user, for a task like nothing in particular."""
    if plug.config.soft_count:
        yield from inverted(f"soft prompts of {kind}", leaked_prompts(scene, plug), scene.known)


def attack_rows(attacked: str, metric: str, sums: Floats) -> Iterator[Row]:
    """Rows of `evaluations`, apart from the run: the attack, and the same with another user's vectors.

    `sums` (A, 3) say of each user how much there was, how much of it the attack got, and how much with another's.
    """
    if not len(sums):
        return
    values = {one.metric: one for one in values_with_intervals(_shares, sums)}
    _, difference, low, high = values["difference"]
    compared = {"difference": difference, "difference_low": low, "difference_high": high, "compared_with": "other"}
    for arm in ("own", "other"):
        same = {"kind": attacked, "metric": metric, "task_count": int(sums[:, 0].sum()), "arm": arm}
        yield values[arm]._asdict() | same | (compared if arm == "own" else {})


def _shares(totals: Floats) -> dict[str, Floats]:
    own, other = totals[:, 1] / totals[:, 0], totals[:, 2] / totals[:, 0]
    return {"own": own, "other": other, "difference": own - other}


@torch.no_grad()
def leaked_prompts(scene: Scene, plug: PersonaPlug) -> Leak:
    """The soft prompt of each user with a persona, its vectors one behind the other."""
    known = scene.known
    there = [at for at, user in enumerate(known.users) if user in scene.personas]
    histories = [scene.personas[known.users[at]].history for at in there]
    total = known.vectors.mean(0)
    task = torch.from_numpy(total / max(float(np.linalg.norm(total)), 1e-9)).expand(len(there), -1)
    soft, _ = plug(task, *pad_histories(histories, scene.encoder.width))
    vectors: FloatArray = soft.flatten(1).float().numpy()
    of_user = known.of_user
    return Leak(vectors, np.array(there, np.int64), [of_user[at] for at in there])


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
