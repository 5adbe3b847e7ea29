"""Every attack on one night, as numbers of each user.

Known, Leak ─▶ Finding: of each user how much there was, how much the attack got, how much with another's vectors
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import duckdb
import numpy as np
import torch
from numpy.typing import NDArray

from embedder.compact import FloatArray
from embedder.encoder import TextEncoder
from embedder.errors import InputMissing
from embedder.histories import pad_histories
from embedder.plug import PersonaPlug
from llm_jobs.kinds import Kind
from pipelines.audit.inversion import invert
from pipelines.audit.linking import link_items, link_nights
from pipelines.audit.sample import Known, Leak, leaked_items, leaked_personas, read_known, unit_means
from pipelines.personas.nights import Nights, newest_nights, nights_of, nights_until
from pipelines.personas.stored import Persona, read_personas

Floats = NDArray[np.float64]
Personas = Mapping[str, Persona]

FOUND, OVERLAP = "texts-found", "token-f1"
NIGHTS, ITEMS = "linked-nights", "linked-items"
MOST_ON_TABLES = 6
"""Findings of `attacks_on_tables` where there is a night before."""


class Finding(NamedTuple):
    """What one attack achieved."""

    attacked: str
    metric: str
    sums: Floats
    """(A, 3) of each user: how much there was, how much of it the attack got, and how much with another's vectors."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A night as its attackers see it."""

    ds: date
    encoder: TextEncoder
    known: Known
    personas: Personas
    before: Nights | None
    """The nights up to the one before; None if there is none."""

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


def attacks_on_tables(db: duckdb.DuckDBPyConnection, scene: Scene) -> Iterator[Finding]:
    """Invert what is stored, and link it."""
    known, width = scene.known, scene.encoder.width
    yield from inverted("history_vectors", leaked_items(db, known, scene.ds, scene.encoder), known)
    yield from inverted("personas", leaked_personas(known, scene.personas, width), known)
    if scene.before is None:
        return
    then = unit_means(known, read_personas(db, scene.before.params, known.users, width), width)
    now = unit_means(known, scene.personas, width)
    yield Finding("personas", NIGHTS, link_nights(then, now))
    fresh = np.array([night > scene.before.last.ds for night in known.nights])
    yield Finding("personas", ITEMS, link_items(then, known.vectors[fresh], known.owners[fresh]))


def inverted(attacked: str, leak: Leak, known: Known) -> Iterator[Finding]:
    """What was read of texts."""
    found = invert(leak, known)
    yield Finding(attacked, FOUND, found.found)
    yield Finding(attacked, OVERLAP, found.overlap)


def attacks_on_soft_prompts(scene: Scene, plug: PersonaPlug) -> Iterator[Finding]:
    """Invert what a plug of free answers tells the LLM of each user, for a task like nothing in particular."""
    if not plug.config.labels:
        yield from inverted("soft prompts", leaked_prompts(scene, plug), scene.known)


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
