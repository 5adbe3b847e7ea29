"""Personas without vectors of items: each changed user's whole history is encoded, grouped, and stored as a base.

all texts of a changed user ─▶ encoded ─▶ summary ─▶ groups of at least `min_items` items ─▶ persona_vectors
changed items ─────────────────────────────────────▶ which were encoded, without a vector ─▶ history_vectors
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from embedder.compact import CompactVectors
from embedder.encoder import TextEncoder
from embedder.personas import Summary
from llm_jobs.kinds import Kind
from pipelines.personas.bases import Base, UserItems, base_table, read_items
from pipelines.personas.columns import lists_of
from pipelines.personas.items import Encoded, Pending, Stored, pending_items, rejected_items, vector_rows
from pipelines.personas.protection import Protector


def encode_whole(
    pending: Pending, stored: Stored, encoder: TextEncoder, kinds: Mapping[str, Kind], protector: Protector
) -> Encoded:
    """Encode all items of the users; those that changed get no vector of their own."""
    items = whole_items(stored, kinds, protector)
    fresh, tokens = encoder.encode_counted(items.texts)
    vectors = CompactVectors.of(protector.noisy(fresh, items.names))
    rows = items.named_rows(kinds).append_column("vector", lists_of(vectors.codes))
    rows = rows.append_column("vector_scale", pa.array(vectors.scales))
    count = pending.rows.num_rows
    nothing = CompactVectors(np.zeros((count, 0), np.int8), np.zeros(count, np.float32))
    whole = stored._replace(items=rows)
    return Encoded(pending.named_rows(kinds), nothing, pending.gone, pending.refused, whole, tokens)


def whole_items(stored: Stored, kinds: Mapping[str, Kind], protector: Protector) -> Pending:
    """What the encoder reads of the users' items; those of unknown kinds are passed over."""
    return pending_items(stored.items, kinds, protector, force=True)


def whole_tables(
    encoded: Encoded, run_id: str, max_vectors: int, min_items: int, encoder_sha256: str, width: int
) -> dict[str, pa.Table]:
    """Make a shard's rows of each table."""
    constants = {"encoder_sha256": encoder_sha256, "run_id": run_id}
    return {
        "history_vectors": vector_rows(encoded, constants),
        "persona_vectors": base_table(whole_bases(encoded, max_vectors, min_items, width), constants, width),
        "rejects": rejected_items(encoded.refused, run_id),
    }


def whole_bases(encoded: Encoded, max_vectors: int, min_items: int, width: int) -> dict[str, Base]:
    """The persona of each user who has enough items; one of no items where there was a persona and is none any more."""
    stored, nothing = encoded.stored, Base(Summary.empty(width))
    before = {*stored.bases["user_id"].to_pylist()}
    there = dict(read_items(stored.items, width))
    made = {user: whole_base(there[user], max_vectors, min_items, width) for user in there}
    found = {user: made.get(user, nothing) for user in sorted(stored.users)}
    return {user: base for user, base in found.items() if base.summary.item_count or user in before}


def whole_base(own: UserItems, max_vectors: int, min_items: int, width: int) -> Base:
    """All items of a user as a persona, of no items if there are too few."""
    summary = Summary.empty(width).absorb(own.items, max_vectors).in_groups(min_items)
    return Base(summary, own.posted_at[0], own.posted_at[-1]) if summary.item_count else Base(summary)
