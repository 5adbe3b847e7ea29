"""What an audit looks at: some users, their newest texts, and what the warehouse keeps of them.

histories ─▶ users by a hash ─▶ newest texts, encoded ─▶ Known: what an attacker may hold already
history_vectors, personas ─▶ Leak: vectors, whose they are, and the texts behind them
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from embedder.compact import FloatArray
from embedder.encoder import TextEncoder
from llm_jobs.kinds import Kind
from pipelines.personas.columns import compact_vectors
from pipelines.personas.items import item_texts
from pipelines.personas.stored import Persona
from pipelines.tables.views import run_sql

MOST_ITEMS = 20  # newest texts of a user that are looked at

Places = NDArray[np.int64]
ItemName = tuple[str, str, str]  # user_id, kind and item_id


@dataclass(frozen=True, eq=False)
class Known:
    """T texts of U users, by user and the oldest first."""

    users: Sequence[str]  # (U,)
    names: Sequence[ItemName]  # (T,)
    texts: Sequence[str]  # (T,) what the encoder read
    nights: Sequence[date]  # (T,) from which on the item was part of a persona
    owners: Places  # (T,) place of the user
    vectors: FloatArray  # (T, D) what the encoder makes of the texts

    @cached_property
    def of_user(self) -> list[Places]:
        """(U,) the places of each user's texts."""
        return [np.flatnonzero(self.owners == at) for at in range(len(self.users))]


@dataclass(frozen=True, eq=False)
class Leak:
    """V vectors of width W that an attacker got hold of."""

    vectors: FloatArray  # (V, W)
    owners: Places  # (V,) place of the user in `Known.users`
    behind: Sequence[Places]
    """(V,) places of texts in `Known` that a vector stands for, as far as the tables tell; it may be none."""


def read_known(
    db: duckdb.DuckDBPyConnection, ds: date, kinds: Mapping[str, Kind], encoder: TextEncoder, user_count: int, seed: int
) -> Known:
    """Choose users, the same ones for the same seed, and encode their newest texts."""
    params = {"ds": ds, "seed": seed, "users": user_count, "items": MOST_ITEMS}
    rows = run_sql(db, "jobs/audited_items", params)
    read = item_texts(rows, kinds)
    kept = [at for at, text in enumerate(read) if text is not None]
    names = list(zip(*(rows[name].to_pylist() for name in ("user_id", "kind", "item_id")), strict=True))
    nights = [max(one["ds"], one["posted_at"].date()) for one in rows.select(["ds", "posted_at"]).to_pylist()]
    texts = [text for text in read if text is not None]
    users = list(dict.fromkeys(names[at][0] for at in kept))
    places = {user: at for at, user in enumerate(users)}
    owners = np.array([places[names[at][0]] for at in kept], np.int64)
    vectors = encoder.encode(texts).astype(np.float32).reshape(len(texts), encoder.width)
    return Known(users, [names[at] for at in kept], texts, [nights[at] for at in kept], owners, vectors)


def leaked_items(db: duckdb.DuckDBPyConnection, known: Known, ds: date, encoder: TextEncoder) -> Leak:
    """The vectors of single items that any night left in `history_vectors`."""
    params: dict[str, Any] = {"users": list(known.users), "ds": ds, "encoder_sha256": encoder.sha256}
    rows = run_sql(db, "jobs/audited_vectors", params)
    vectors = compact_vectors(rows["vector"], rows["vector_scale"], encoder.width).floats()
    names = list(zip(*(rows[name].to_pylist() for name in ("user_id", "kind", "item_id")), strict=True))
    place = {name: at for at, name in enumerate(known.names)}
    there = [(row, place[name]) for row, name in enumerate(names) if name in place]
    texts = np.array([text for _, text in there], np.int64)
    return Leak(vectors[[row for row, _ in there]], known.owners[texts], [np.array([text]) for text in texts])


def leaked_personas(known: Known, personas: Mapping[str, Persona], width: int) -> Leak:
    """The vectors of personas; of each the tables name one item."""
    place = {name: at for at, name in enumerate(known.names)}
    vectors, owners, behind = list[FloatArray](), list[int](), list[Places]()
    for at, user in enumerate(known.users):
        if user in personas:
            items = [(user, item["kind"], item["item_id"]) for item in personas[user].items]
            vectors.append(personas[user].history.vectors)
            owners += [at] * len(items)
            behind += [np.array([place[item]] if item in place else [], np.int64) for item in items]
    stacked = np.concatenate([np.zeros((0, width), np.float32), *vectors])
    return Leak(stacked, np.array(owners, np.int64), behind)


def unit_means(known: Known, personas: Mapping[str, Persona], width: int) -> FloatArray:
    """(U, D) the direction of each user's persona; 0 without one."""
    found = np.zeros((len(known.users), width), np.float32)
    for at, user in enumerate(known.users):
        if user in personas:
            total = personas[user].history.counts @ personas[user].history.vectors
            found[at] = total / max(float(np.linalg.norm(total)), 1e-9)
    return found
