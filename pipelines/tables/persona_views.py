"""The personas as views: whatever rows lie behind them, one row a user as of a night.

runs ─▶ encode_nights ─┐
persona_vectors ───────┼─▶ personas_at(night), personas
history_vectors ───────┘
"""

from typing import Final

import duckdb

from pipelines.tables.sql_files import statement_text

CHANGED: Final = """user_id in (
    select user_id
    from (
        select user_id from history_vectors where ds = changed_ds
        union select user_id from persona_vectors where ds = changed_ds
    )
    order by hash(user_id), user_id
    limit most
)"""
"""Users of whom a night wrote something; at most so many of them, chosen by their ids alone."""


def create_persona_views(db: duckdb.DuckDBPyConnection) -> None:
    """Make the views and macros of personas in a connection that has the tables.

    `encode_nights`, `personas_at(night)`, `personas` as of the newest night, and `changed_personas_at(night,
    changed_ds, most)` with the users alone of whom the night `changed_ds` wrote something, at most so many (null: all).
    """
    db.execute(f"create or replace view encode_nights as {statement_text('views/encode_nights')}")
    width = _width(db)
    numbers = ", ".join(f"sum(vector[{at}] * weight)" for at in range(1, width + 1))
    text = statement_text("views/personas_at").replace("$sums", f"[{numbers}]::double[]").replace("$night", "night")
    db.execute(f"create or replace macro personas_at(night) as table {text.replace('$is_wanted', 'true')}")
    changed = text.replace("$is_wanted", CHANGED)
    db.execute(f"create or replace macro changed_personas_at(night, changed_ds, most) as table {changed}")
    db.execute("create or replace view personas as from personas_at((select max(ds) from encode_nights))")


def _width(db: duckdb.DuckDBPyConnection) -> int:
    """Numbers of a vector; 0 where there is none."""
    found = db.execute("select len(vector) from history_vectors where not is_deleted limit 1").fetchone()
    return found[0] if found else 0
