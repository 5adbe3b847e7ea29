"""Views of what is stored of some users, so that only their part of the files is read.

ids, spelled out in the view ─▶ DuckDB passes over every row group that holds none of them
"""

import contextlib
from collections.abc import Collection, Generator
from typing import Final

import duckdb

MOST_SPELLED: Final = 2_000
"""Ids that are spelled out; beyond it nearly every row group holds one, and a join is as good."""

VIEWS: Final = {"asked_vectors": "history_vectors", "asked_bases": "persona_vectors"}


def ask_for(db: duckdb.DuckDBPyConnection, users: Collection[str]) -> None:
    """Make `asked_vectors` and `asked_bases`: the rows of these users in `history_vectors` and `persona_vectors`."""
    if len(users) <= MOST_SPELLED:
        wanted = ", ".join("'" + user.replace("'", "''") + "'" for user in sorted(users)) or "null"
    else:
        db.execute(
            "create or replace temp table asked as select unnest($users::text[]) as user_id", {"users": [*users]}
        )
        wanted = "select user_id from asked"
    for view, table in VIEWS.items():
        db.execute(f"create or replace temp view {view} as select * from {table} where user_id in ({wanted})")


@contextlib.contextmanager
def seeing_only(db: duckdb.DuckDBPyConnection, users: Collection[str]) -> Generator[None]:
    """Let every view of personas see these users alone.

    Temporary tables hide the tables they are made from, so that many questions read the vectors once.
    """
    ask_for(db, users)
    for view, table in VIEWS.items():
        db.execute(f"create temp table {table} as from {view}")
    try:
        yield
    finally:
        for table in VIEWS.values():
            db.execute(f"drop table temp.{table}")
