"""The personas of some users as of a night: the stored part of each, and the items since."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import duckdb

from embedder.histories import History
from embedder.personas import Summary
from pipelines.personas.asked import ask_for
from pipelines.personas.bases import read_bases, read_items
from pipelines.tables.views import run_sql


class Persona(NamedTuple):
    """What is known of a user."""

    history: History
    items: Sequence[Mapping[str, str]]
    """(n,) kind and item_id of the most typical item of each vector."""


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
