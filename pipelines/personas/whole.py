"""Personas without vectors of items: each changed user's whole history is encoded, grouped, and stored as a base.

all texts of a changed user ─▶ encoded ─▶ summary ─▶ groups of at least `min_items` items ─▶ persona_vectors
changed items ─────────────────────────────────────▶ which were encoded, without a vector ─▶ history_vectors
"""

from collections.abc import Mapping

import duckdb
import numpy as np
import pyarrow as pa

from embedder.compact import CompactVectors
from embedder.encoder import Tell, TextEncoder
from embedder.personas import Summary
from llm_jobs.kinds import Kind
from pipelines.nights.shards import Shard
from pipelines.personas import items
from pipelines.personas.asked import ask_for
from pipelines.personas.bases import Base, read_items
from pipelines.personas.columns import with_vectors
from pipelines.personas.items import Changed, Encoded, Pending, Stored, changed_rows, pending_items, tables_of
from pipelines.personas.nights import Changes
from pipelines.personas.protection import Protection, Protector
from pipelines.tables.sql_files import query_text
from pipelines.tables.views import run_sql

TAKES_PARTS = False
READS_ALL = True


def changed_users(db: duckdb.DuckDBPyConnection, changes: Changes) -> duckdb.DuckDBPyRelation:
    """Count each user's changed items; they weigh what all items of the user do."""
    changed = items.changed_users(db, changes).to_arrow_table().columns
    named = zip(("users", "counts", "weights"), changed, strict=True)
    return db.sql(query_text("jobs/whole_users"), params={name: column.to_pylist() for name, column in named})


def read_changed(db: duckdb.DuckDBPyConnection, shard: Shard, changes: Changes, encoder_sha256: str, _: int) -> Changed:
    """Read the changed items of the shard's users, all items of these users, as texts, and whose persona is stored."""
    rows, nights = changed_rows(db, shard, changes, encoder_sha256)
    users = rows["user_id"].unique().to_pylist()
    ask_for(db, users)
    bases = run_sql(db, "jobs/bases_of_users", nights)
    texts = run_sql(db, "jobs/items_of_users", {"ds": changes.ds, "users": users})
    return Changed(rows, Stored(frozenset(users), frozenset(users), bases, texts))


def encode_items(
    pending: Pending, stored: Stored, encoder: TextEncoder, kinds: Mapping[str, Kind], protector: Protector, tell: Tell
) -> Encoded:
    """Encode all items of the users; those that changed get no vector of their own."""
    every = whole_items(stored, kinds, protector)
    fresh, tokens = encoder.encode_counted(every.texts, tell=tell)
    vectors = CompactVectors.of(protector.noisy(fresh, every.names))
    rows = with_vectors(every.named_rows(kinds), vectors)
    count = pending.rows.num_rows
    nothing = CompactVectors(np.zeros((count, 0), np.int8), np.zeros(count, np.float32))
    whole = stored._replace(items=rows)
    return Encoded(pending.named_rows(kinds), nothing, pending.gone, pending.refused, whole, tokens)


def whole_items(stored: Stored, kinds: Mapping[str, Kind], protector: Protector) -> Pending:
    """What the encoder reads of the users' items; those of unknown kinds are passed over."""
    return pending_items(stored.items, kinds, protector, force=True)


def unplanned(
    changed: Changed, kinds: Mapping[str, Kind], protector: Protector, planned: set[int] | None, *, force: bool
) -> tuple[Pending, list[str]]:
    """Say what the encoder must run on: every night on all that its users have."""
    del planned, force
    pending = whole_items(changed.stored, kinds, protector)
    return pending, pending.texts


def shard_tables(
    encoded: Encoded, constants: Mapping[str, str], width: int, max_vectors: int, protection: Protection
) -> dict[str, pa.Table]:
    """Make a shard's rows of each table; `constants` are the encoder and the run."""
    return tables_of(encoded, whole_bases(encoded, max_vectors, protection.min_items, width), constants, width)


def whole_bases(encoded: Encoded, max_vectors: int, min_items: int, width: int) -> dict[str, Base]:
    """The persona of each user who has enough items; one of no items where there was a persona and is none any more."""
    stored, nothing = encoded.stored, Base(Summary.empty(width))
    before = {*stored.bases["user_id"].to_pylist()}
    made = dict[str, Base]()
    for user, own in dict(read_items(stored.items, width)).items():
        summary = Summary.empty(width).absorb(own.items, max_vectors).in_groups(min_items)
        made[user] = Base(summary, own.posted_at[0], own.posted_at[-1]) if summary.item_count else nothing
    found = {user: made.get(user, nothing) for user in sorted(stored.users)}
    return {user: base for user, base in found.items() if base.summary.item_count or user in before}
