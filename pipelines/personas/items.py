"""The items of a shard of users: read with the vectors earlier runs made, encoded where there is none.

sql/jobs/items_of_users.sql ─▶ Pending ─▶ Encoded ─▶ rows of each table
"""

from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedder.compact import CompactVectors
from embedder.encoder import TextEncoder
from embedder.hashing import text_sha256
from llm_jobs.kinds import Kind
from pipelines.nights.shards import Shard
from pipelines.personas.persona_table import compact_vectors, history_vector_table, persona_table, table_of
from pipelines.tables.views import run_sql

JOB = "encode"


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
    """A shard's items with their vectors; refused items are in `refused` only."""

    rows: pa.Table
    vectors: CompactVectors
    """One for each of `rows`."""
    is_new: NDArray[np.bool_]
    refused: pa.Table
    tokens: int


def read_items(db: duckdb.DuckDBPyConnection, shard: Shard, ds: date, encoder_sha256: str) -> pa.Table:
    """Read the items of the shard's users as of a night, each with the newest vector made of it."""
    users = {"first_user": shard.first_user, "last_user": shard.last_user}
    return run_sql(db, "jobs/items_of_users", users | {"ds": ds, "encoder_sha256": encoder_sha256})


def pending_items(items: pa.Table, ds: date, kinds: Mapping[str, Kind], *, force: bool) -> Pending:
    """Find the items whose text an earlier run has not encoded; with `force`, all."""
    texts = item_texts(items, kinds)
    known = np.array([text is not None for text in texts], dtype=bool)
    rows, refused = items.filter(pa.array(known)), items.filter(pa.array(~known))
    kept = [text for text in texts if text is not None]
    hashes = [text_sha256(text) for text in kept]
    is_held = np.array([ours == held for ours, held in zip(hashes, rows["item_sha256"].to_pylist(), strict=True)], bool)
    is_earlier = np.array([night is not None and night < ds for night in rows["vector_ds"].to_pylist()], bool)
    is_todo = np.ones_like(is_held) if force else ~is_held
    return Pending(rows, refused, kept, hashes, is_todo, ~(is_held & is_earlier))


def encode_items(pending: Pending, encoder: TextEncoder) -> Encoded:
    """Give each item its vector: that of an earlier run where the text is the same, else a new one."""
    is_todo = pending.is_todo
    fresh, tokens = encoder.encode_counted(pending.todo_texts)
    held = pending.rows.filter(pa.array(~is_todo))
    stored = compact_vectors(held["vector"], held["vector_scale"], encoder.width)
    order = np.argsort(np.concatenate([np.flatnonzero(is_todo), np.flatnonzero(~is_todo)]))
    vectors = CompactVectors.concatenate([CompactVectors.of(fresh), stored])[order]
    rows = pending.rows.drop_columns(["vector", "vector_scale", "item_sha256"])
    rows = rows.append_column("item_sha256", pa.array(pending.hashes, pa.string()))
    return Encoded(rows, vectors, pending.is_new, pending.refused, tokens)


def item_texts(rows: pa.Table, kinds: Mapping[str, Kind]) -> list[str | None]:
    """What the encoder reads of each item; None for a kind that no file or setting describes."""
    columns = (rows.column(name).to_pylist() for name in ("kind", "text", "output"))
    return [
        kinds[kind].encoder_text(text, output) if kind in kinds else None
        for kind, text, output in zip(*columns, strict=True)
    ]


def rejected_items(rows: pa.Table, run_id: str) -> pa.Table:
    """Rows of `rejects` for items of a kind that is not known."""
    kinds, items = rows["kind"].to_pylist(), rows["item_id"].to_pylist()
    return table_of(
        "rejects",
        {
            "row_id": [f"{kind}/{item}" for kind, item in zip(kinds, items, strict=True)],
            "user_id": rows["user_id"],
            "detail": [f"kind {kind!r} is not known: add [kinds.{kind}] to pplug.toml" for kind in kinds],
        },
        {"job": JOB, "reason": "unknown_kind", "run_id": run_id, "source": "histories"},
    )


def shard_tables(encoded: Encoded, run_id: str, max_vectors: int, encoder_sha256: str) -> dict[str, pa.Table]:
    """Make a shard's rows of each table."""
    constants = {"encoder_sha256": encoder_sha256, "run_id": run_id}
    rows, vectors, is_new = encoded.rows, encoded.vectors, encoded.is_new
    rows, vectors = rows.filter(pa.array(is_new)), vectors[np.flatnonzero(is_new)]
    return {
        "persona_vectors": persona_table(encoded.rows, encoded.vectors, max_vectors, constants),
        "history_vectors": history_vector_table(rows, vectors, constants),
        "rejects": rejected_items(encoded.refused, run_id),
    }
