"""The items of a shard of users: read with the vectors earlier runs made, encoded where there is none.

sql/jobs/items_of_users.sql ─▶ Items ─▶ Pending ─▶ Encoded ─▶ rows of each table
"""

import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedder.compact import CompactVectors
from embedder.encoder import TextEncoder
from embedder.hashing import text_sha256
from llm_jobs.kinds import Kind
from pipelines.nights.jobs import Night
from pipelines.nights.shards import Shard
from pipelines.personas.persona_table import compact_vectors, history_vector_table, persona_table, table_of
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse

JOB = "encode"


class Items(NamedTuple):
    """A shard's items as `sql/jobs/items_of_users.sql` gives them."""

    shard: Shard
    rows: pa.Table


class Pending(NamedTuple):
    """A shard's items with what is known before the encoder runs; the arrays have one entry for each of `rows`."""

    rows: pa.Table
    refused: pa.Table
    """Items of a kind that no file or setting describes."""
    texts: list[str]
    hashes: list[str]
    """sha256 of each text."""
    is_todo: NDArray[np.bool_]
    """The encoder must run."""
    is_new: NDArray[np.bool_]
    """No earlier night holds the item's vector."""

    @property
    def todo_texts(self) -> list[str]:
        """What the encoder must run on, in the order of the items."""
        return [text for text, is_todo in zip(self.texts, self.is_todo, strict=True) if is_todo]

    def unplanned_texts(self, planned: set[int]) -> list[str]:
        """What the encoder must run on if it has run on the items of `planned` by then; they are added to it."""
        keys = zip(*(self.rows[name].to_pylist() for name in ("user_id", "kind", "item_id")), self.hashes, strict=True)
        todo = [(hash(key), text) for key, text, is_todo in zip(keys, self.texts, self.is_todo, strict=True) if is_todo]
        new = [(key, text) for key, text in todo if key not in planned]
        planned.update(key for key, _ in new)
        return [text for _, text in new]


class Encoded(NamedTuple):
    """A shard's items with their vectors; refused items are in `rejects` only."""

    shard: Shard
    rows: pa.Table
    vectors: CompactVectors
    """One for each of `rows`."""
    is_new: NDArray[np.bool_]
    rejects: pa.Table
    tokens: int
    seconds: float
    """Time in which the encoder ran."""


def read_items(shard: Shard, night: Night, encoder_sha256: str) -> Items:
    """The items of the shard's users as of the night, each with the newest vector made of it."""
    users = {"first_user": shard.first_user, "last_user": shard.last_user}
    with connect(Warehouse(night.root), night.versions) as db:
        params = users | {"ds": night.ds, "encoder_sha256": encoder_sha256}
        return Items(shard, run_sql(db, "jobs/items_of_users", params))


def pending_items(items: Items, night: Night, *, force: bool) -> Pending:
    """Find the items whose text an earlier run has not encoded; with `force`, all."""
    texts = item_texts(items.rows, night.kinds)
    known = np.array([text is not None for text in texts], dtype=bool)
    rows, refused = items.rows.filter(pa.array(known)), items.rows.filter(pa.array(~known))
    kept = [text for text in texts if text is not None]
    hashes = [text_sha256(text) for text in kept]
    is_held = np.array([ours == held for ours, held in zip(hashes, rows["item_sha256"].to_pylist(), strict=True)], bool)
    is_earlier = np.array([ds is not None and ds < night.ds for ds in rows["vector_ds"].to_pylist()], bool)
    is_todo = np.ones_like(is_held) if force else ~is_held
    return Pending(rows, refused, kept, hashes, is_todo, ~(is_held & is_earlier))


def encode_items(items: Items, night: Night, encoder: TextEncoder, *, force: bool) -> Encoded:
    """Give each item its vector: that of an earlier run where the text is the same, else a new one."""
    pending = pending_items(items, night, force=force)
    is_todo = pending.is_todo
    start = time.perf_counter()
    fresh, tokens = encoder.encode_counted(pending.todo_texts)
    seconds = time.perf_counter() - start
    held = pending.rows.filter(pa.array(~is_todo))
    stored = compact_vectors(held["vector"], held["vector_scale"], encoder.width)
    order = np.argsort(np.concatenate([np.flatnonzero(is_todo), np.flatnonzero(~is_todo)]))
    vectors = CompactVectors.concatenate([CompactVectors.of(fresh), stored])[order]
    rows = pending.rows.drop_columns(["vector", "vector_scale", "item_sha256"])
    rows = rows.append_column("item_sha256", pa.array(pending.hashes, pa.string()))
    rejects = rejected_items(pending.refused, night)
    return Encoded(items.shard, rows, vectors, pending.is_new, rejects, tokens, seconds)


def item_texts(rows: pa.Table, kinds: Mapping[str, Kind]) -> list[str | None]:
    """What the encoder reads of each item; None for a kind that no file or setting describes."""
    columns = (rows.column(name).to_pylist() for name in ("kind", "text", "output"))
    return [
        kinds[kind].encoder_text(text, output) if kind in kinds else None
        for kind, text, output in zip(*columns, strict=True)
    ]


def rejected_items(rows: pa.Table, night: Night) -> pa.Table:
    """Rows of `rejects` for items of a kind that is not known."""
    kinds, items = rows["kind"].to_pylist(), rows["item_id"].to_pylist()
    return table_of(
        "rejects",
        {
            "row_id": [f"{kind}/{item}" for kind, item in zip(kinds, items, strict=True)],
            "user_id": rows["user_id"],
            "detail": [f"kind {kind!r} is not known: add [kinds.{kind}] to pplug.toml" for kind in kinds],
        },
        {"job": JOB, "reason": "unknown_kind", "run_id": night.run_id, "source": "histories"},
    )


def shard_tables(encoded: Encoded, night: Night, max_vectors: int, encoder_sha256: str) -> dict[str, pa.Table]:
    """The shard's rows of each table."""
    constants = {"encoder_sha256": encoder_sha256, "run_id": night.run_id}
    rows, vectors, is_new = encoded.rows, encoded.vectors, encoded.is_new
    rows, vectors = rows.filter(pa.array(is_new)), vectors[np.flatnonzero(is_new)]
    return {
        "persona_vectors": persona_table(encoded.rows, encoded.vectors, max_vectors, constants),
        "history_vectors": history_vector_table(rows, vectors, constants),
        "rejects": encoded.rejects,
    }
