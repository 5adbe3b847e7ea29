"""The views and macros of `sql/views`, over the views of tables.

histories, settled_histories ─▶ all_histories
histories, settled_histories, deletions ─▶ item_changes(night, before, kinds, first_user, last_user)

runs ─▶ encode_nights ─┬─▶ live_items_at(night), live_items
history_vectors ───────┤
persona_vectors ───────┴─▶ personas_at(night), personas, personas_between(night, first_user, last_user),
                           changed_personas_at(night, changed_night, most), changed_between(...)
"""

from collections.abc import Sequence
from typing import Final

import duckdb

from pipelines.tables.sql_files import statement_text

CHANGED: Final = """user_id in (
    select user_id
    from (
        select user_id from history_vectors where ds = given_changed_night
        union select user_id from persona_vectors where ds = given_changed_night
    )
    order by hash(user_id), user_id
    limit given_most
)"""
"""Users of whom a night wrote something; at most so many of them, chosen by their ids alone."""

RANGE: Final = ("first_user", "last_user")
BETWEEN: Final = "user_id >= coalesce($first_user, '') and user_id <= coalesce($last_user, chr(1114111))"
"""Users of a range, both ends included; null for all before or after. Said outside of the macro of all users: DuckDB
hands it on to the files, and there it must find no other condition on `user_id`."""


def create_change_macro(db: duckdb.DuckDBPyConnection) -> None:
    """Make `all_histories` and `item_changes` in a connection that has the tables they read."""
    db.execute("create or replace view all_histories as from histories union all from settled_histories")
    _create(db, "item_changes", ("night", "before", "kinds", "first_user", "last_user"), _text("item_changes"))


def create_persona_views(db: duckdb.DuckDBPyConnection) -> None:
    """Make the views and macros of personas in a connection that has the tables.

    `encode_nights`, `live_items_at(night)`, `personas_at(night)`, both also as of the newest night, and
    `changed_personas_at(night, changed_night, most)` with the users alone of whom the night `changed_night` wrote
    something, at most so many (null: all). With `between` in their names they have those of a range of users.
    """
    db.execute(f"create or replace view encode_nights as {_text('encode_nights')}")
    numbers = ", ".join(f"sum(vector[{at}] * weight)" for at in range(1, _width(db) + 1))
    personas = _text("personas_at").replace("$sums", f"[{numbers}]::double[]")
    _create(db, "live_items_at", ("night",), _text("live_items_at"))
    changed = ("night", "changed_night", "most")
    _create(db, "personas_at", ("night",), personas.replace("$is_wanted", "true"))
    _create(db, "changed_personas_at", changed, personas.replace("$is_wanted", CHANGED))
    _create(db, "personas_between", ("night", *RANGE), f"from personas_at($night) where {BETWEEN}")
    all_changed = "from changed_personas_at($night, $changed_night, $most)"
    _create(db, "changed_between", (*changed, *RANGE), f"{all_changed} where {BETWEEN}")
    for view, macro in (("live_items", "live_items_at"), ("personas", "personas_at")):
        db.execute(f"create or replace view {view} as from {macro}((select max(ds) from encode_nights))")


def _text(name: str) -> str:
    return statement_text(f"views/{name}")


def _create(db: duckdb.DuckDBPyConnection, name: str, params: Sequence[str], text: str) -> None:
    """Make a macro of a statement with `$params`, which get names that no column has."""
    given = [f"given_{param}" for param in params]
    for param, own in zip(params, given, strict=True):
        text = text.replace(f"${param}", own)
    db.execute(f"create or replace macro {name}({', '.join(given)}) as table {text}")


def _width(db: duckdb.DuckDBPyConnection) -> int:
    """Numbers of a vector; 0 where there is none."""
    of_items = db.execute("select len(vector) from history_vectors where vector_scale > 0 limit 1").fetchone()
    found = of_items or db.execute("select len(persona) from persona_vectors where item_count > 0 limit 1").fetchone()
    return (found[0] or 0) if found else 0
