"""The base of a user who has more items than a shard takes, once the shards of all parts are finished.

history_vectors of earlier nights ─┐
what the parts of tonight wrote ───┴─▶ one after the other, oldest first ─▶ merged as they come ─▶ persona_vectors

The items are never in memory all at once: a base is a function of the items in their order, in however many pieces.
"""

from collections.abc import Mapping
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from embedder.personas import Items, Summary
from pipelines.personas.asked import ask_for
from pipelines.personas.bases import Base, UserItems, read_bases, read_items, with_newer
from pipelines.tables.sql_files import query_text
from pipelines.tables.views import run_sql

PIECE_ITEMS = 4_096


def read_closed(
    db: duckdb.DuckDBPyConnection, user: str, nights: Mapping[str, Any], width: int, max_vectors: int
) -> dict[str, Base]:
    """Make the base of a user anew from all items, tonight's included; nothing where none is stored or needed."""
    ask_for(db, [user])
    old = read_bases(run_sql(db, "jobs/bases_of_users", nights), width)
    params = dict(nights) | {"whole_users": [user]}
    rows = db.sql(query_text("jobs/items_since_base"), params=params).to_arrow_reader(PIECE_ITEMS)
    base, single = Base(Summary.empty(width)), UserItems(Items.of(np.zeros((0, width), np.float32)), [])
    for batch in rows:
        for _, items in read_items(pa.Table.from_batches([batch]), width):
            base, single = with_newer(base, single + items, max_vectors)
    is_changed = base.summary.item_count or user in old
    return {user: base} if is_changed else {}
