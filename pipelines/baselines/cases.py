"""Read what a comparison is about, a few users at a time: each task with all that a method may know of its user.

    tasks ─▶ users with their number of tasks ─▶ chunks of users ─┬─▶ tasks ⋈ personas      ┐
                                                                  ├─▶ items of the personas ├─▶ Case
                                                                  └─▶ other users' personas ┘

A method knows the very items that the user's persona was made of, no fewer and no later ones.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple

import duckdb
import numpy as np

from embedder.compact import FloatArray
from embedder.encoder import TextEncoder
from embedder.errors import PplugError
from llm_jobs.kinds import Kind
from llm_jobs.labels import label_of
from llm_jobs.tasks import PersonalTask
from pipelines.answers.queue import QueuedTask, personal_tasks, queued_tasks
from pipelines.nights.shards import cut_shards
from pipelines.personas.columns import compact_vectors
from pipelines.personas.nights import newest_nights, nights_of
from pipelines.personas.stored import Persona, read_personas, with_texts
from pipelines.tables.views import run_sql

DRAWS = 5
"""Assignments of other users' personas; the arm `other` is their mean."""

CHUNK = 64
"""Tasks that are read, and answered in all their arms, at once; more only for a user who has more."""


class Item(NamedTuple):
    """One thing that a user wrote or did."""

    item_id: str
    posted_at: datetime
    text: str
    output: str | None
    vector: FloatArray
    """(D,) the encoder's, of text and output."""


@dataclass(frozen=True, eq=False)
class Case:
    """A task of the night with all that any method may know of its user."""

    task: QueuedTask
    personal: PersonalTask
    """The task as the plug takes it."""
    items: Sequence[Item]
    """The user's items of the task's kind, oldest first."""
    item_count: int
    """The user's items of all kinds."""
    others: Sequence[Persona]
    """Personas of other users, one for each of `DRAWS`; empty where there are no two users with a history."""

    @property
    def labelled(self) -> list[Item]:
        """Items with an output that the task could have too, in the spelling of the task's choice."""
        written = [item for item in self.items if item.output is not None]
        if not (choices := self.task.choices):
            return written
        named = [(item, label_of(item.output or "", choices)) for item in written]
        return [item._replace(output=label) for item, label in named if label is not None]


class CaseReader:
    """The tasks of one kind and night that have a reference."""

    def __init__(
        self,
        db: duckdb.DuckDBPyConnection,
        ds: date,
        kind: Kind,
        encoder: TextEncoder,
        scored: Sequence[Any],
        *,
        with_texts: bool = False,
    ) -> None:
        """Look up whose tasks there are.

        Args:
            db: a connection to the tables; it must stay open.
            ds: night of the tasks.
            kind: kind of the tasks.
            encoder: of the personas.
            scored: rows of `scored_tasks` of that night.
            with_texts: personas come with the texts of their items, for plugs of earlier turns.

        Raises:
            InputMissing: if no night up to `ds` was encoded.
            PplugError: if that night was encoded with another encoder.
        """
        self._db, self._ds, self._kind, self._encoder = db, ds, kind, encoder
        self._text_kinds = [kind.name] if with_texts else []
        nights = newest_nights(nights_of(db), ds, encoder.sha256)
        self.persona_ds, self._nights = nights.last.ds, nights.params
        self._keeps_items = nights.last.keeps_items
        self.task_counts = Counter(row["user_id"] for row in scored if row["kind"] == kind.name)
        sizes = run_sql(db, "jobs/persona_sizes", self._nights | {"users": list(self.task_counts)}).to_pylist()
        self.item_counts: Mapping[str, int] = {row["user_id"]: row["item_count"] for row in sizes}
        donors = sorted(self.task_counts.keys() & self.item_counts.keys())
        self._others = [other_users(list(self.task_counts), donors, at) for at in range(DRAWS)] if donors[1:] else []

    def require_items(self) -> None:
        """Refuse nights that keep no vectors of items, which other ways to personalise look through.

        Raises:
            PplugError: if the personas are of such a night.
        """
        if not self._keeps_items:
            told = f"the personas of {self.persona_ds} are stored without vectors of items, so nothing can be compared"
            raise PplugError(f"{told}: compare in a warehouse that keeps them (docs/privacy.md)")

    @property
    def has_others(self) -> bool:
        """Whether there are two users with a history to swap."""
        return bool(self._others)

    @property
    def task_count(self) -> int:
        """How many cases there are."""
        return self.task_counts.total()

    def chunks(self) -> Iterator[list[Case]]:
        """All cases by user, in chunks of about `CHUNK`."""
        counts = ((user, count, count) for user, count in sorted(self.task_counts.items()))
        for shard in cut_shards(counts, CHUNK):
            yield self.cases_of(shard.first_user, shard.last_user)

    def cases_of(self, first_user: str, last_user: str) -> list[Case]:
        """The cases of the users in a range, ordered by user and task."""
        users = first_user, last_user
        queue = queued_tasks(self._db, self._ds, self._nights, users, self._encoder.width, self._text_kinds)
        scored = [task for task in queue if task.kind == self._kind.name and task.reference is not None]
        tasks = [task for task in scored if task.user_id in self.task_counts]  # others may lie in the range
        items = self._items(*users)
        personas = self._personas({other[task.user_id] for other in self._others for task in tasks})
        return [
            Case(
                task,
                personal,
                items.get(task.user_id, []),
                self.item_counts.get(task.user_id, 0),
                [personas[other[task.user_id]] for other in self._others],
            )
            for task, personal in zip(
                tasks, personal_tasks(tasks, {self._kind.name: self._kind}, self._encoder), strict=True
            )
        ]

    def _items(self, first_user: str, last_user: str) -> dict[str, list[Item]]:
        params = self._nights | {"kind": self._kind.name}
        rows = run_sql(self._db, "jobs/persona_items", params | {"first_user": first_user, "last_user": last_user})
        vectors = compact_vectors(rows["vector"], rows["vector_scale"], self._encoder.width).floats()
        items = defaultdict[str, list[Item]](list)
        for row, vector in zip(rows.drop_columns(["vector", "vector_scale"]).to_pylist(), vectors, strict=True):
            items[row["user_id"]].append(Item(row["item_id"], row["posted_at"], row["text"], row["output"], vector))
        return items

    def _personas(self, users: set[str]) -> dict[str, Persona]:
        found = read_personas(self._db, self._nights, users, self._encoder.width)
        return with_texts(self._db, found, self._nights, self._text_kinds)


def other_users(users: Sequence[str], donors: Sequence[str], seed: int) -> dict[str, str]:
    """Give each of `users` another one of `donors`, in a random way that depends on the seed alone.

    Donors are handed round in a random circle, so nobody gets his own and every donor is used by one donor.

    Raises:
        ValueError: with fewer than two donors nobody can be another.
    """
    if len(set(donors)) < 2:
        raise ValueError("another user's persona needs two users with a history")
    rng = np.random.default_rng(seed)
    circle = [sorted(set(donors))[at] for at in rng.permutation(len(set(donors)))]
    given = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    return {user: given.get(user) or circle[int(rng.integers(len(circle)))] for user in sorted(set(users))}
