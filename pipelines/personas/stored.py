"""What is stored of personas: of some users as of a night, and all items of one who has more than a shard takes."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from embedder.histories import History
from embedder.personas import Items, Summary
from llm_jobs.tasks import Pair
from llm_jobs.turns import ITEM_LETTERS
from pipelines.personas.asked import ask_for
from pipelines.personas.bases import Base, UserItems, read_bases, read_items, with_newer
from pipelines.tables.sql_files import query_text
from pipelines.tables.views import run_sql

KEY = ("user_id", "kind", "item_id")  # of an item

PIECE_ITEMS = 4_096  # of a user that are in memory at once


class Persona(NamedTuple):
    """What is known of a user."""

    history: History
    items: Sequence[Mapping[str, str]]  # (n,) kind and item_id of the most typical item of each vector
    pairs: Sequence[Pair | None] = ()  # (n,) text and output of these items, where they were read; see `with_texts`

    @classmethod
    def empty(cls, width: int) -> "Persona":
        """That of a user without items."""
        return cls(History.empty(width), [])


def read_personas(
    db: duckdb.DuckDBPyConnection, nights: Mapping[str, Any], users: Iterable[str], width: int
) -> dict[str, Persona]:
    """Read personas as of some nights (`Nights.params`); users without items have none."""
    ask_for(db, set(users))
    bases = read_bases(run_sql(db, "jobs/bases_of_users", nights), width)
    newer = dict(read_items(run_sql(db, "jobs/items_since_base", dict(nights) | {"whole_users": []}), width))
    found = dict[str, Persona]()
    for user in sorted({*bases, *newer}):
        summary = bases[user].summary if user in bases else Summary.empty(width)
        whole = summary.with_items(newer[user].items) if user in newer else summary
        found[user] = Persona(whole.history(), [{"kind": kind, "item_id": name} for kind, name in whole.typical])
    return found


def with_texts(
    db: duckdb.DuckDBPyConnection, personas: Mapping[str, Persona], nights: Mapping[str, Any], kinds: Collection[str]
) -> dict[str, Persona]:
    """The personas with text and output of those of their items that are of these kinds and have an output.

    Of a text only the beginning.
    """
    keys = [
        {"user_id": user, **item}
        for user, persona in personas.items()
        for item in persona.items
        if item["kind"] in kinds
    ]
    if not keys:
        return dict(personas)
    db.register("asked_items", pa.Table.from_pylist(keys, pa.schema(dict.fromkeys(KEY, pa.string()))))
    rows = run_sql(db, "jobs/texts_of_items", {"last_ds": nights["last_ds"], "letters": ITEM_LETTERS}).to_pylist()
    db.unregister("asked_items")
    texts = {tuple(row[name] for name in KEY): (row["item_text"], row["output"]) for row in rows}
    return {
        user: persona._replace(pairs=[texts.get((user, item["kind"], item["item_id"])) for item in persona.items])
        for user, persona in personas.items()
    }


def base_of_parts(
    db: duckdb.DuckDBPyConnection, user: str, nights: Mapping[str, Any], width: int, max_vectors: int
) -> dict[str, Base]:
    """Make the base of a user, of whom all shards of parts are finished, anew from all items, tonight's included.

    The items are never in memory all at once: a base is a function of the items in their order, in however many pieces.
    Nothing is made where none is stored or needed.
    """
    ask_for(db, [user], by_pages=False)
    old = read_bases(run_sql(db, "jobs/bases_of_users", nights), width)
    params = dict(nights) | {"whole_users": [user]}
    rows = db.sql(query_text("jobs/items_since_base"), params=params).to_arrow_reader(PIECE_ITEMS)
    base, single = Base(Summary.empty(width)), UserItems(Items.of(np.zeros((0, width), np.float32)), [])
    for batch in rows:
        for _, items in read_items(pa.Table.from_batches([batch]), width):
            base, single = with_newer(base, single + items, max_vectors)
    is_changed = base.summary.item_count or user in old
    return {user: base} if is_changed else {}
