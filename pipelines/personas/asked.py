"""Views of what is stored of some users, so that only their part of the files is read.

ids, spelled out in the view ─▶ DuckDB passes over every row group that holds none of them
of large tables              ─▶ their pages alone are read, into memory
"""

import contextlib
from collections.abc import Collection, Generator
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from pipelines.tables.pages import rows_of_users
from pipelines.tables.schema import TABLES, file_schema
from pipelines.tables.views import lost_files, selected

MOST_SPELLED: Final = 2_000
"""Ids that are spelled out; beyond it nearly every row group holds one, and a join is as good."""

VIEWS: Final = {"asked_vectors": "history_vectors", "asked_bases": "persona_vectors"}


def ask_for(db: duckdb.DuckDBPyConnection, users: Collection[str], *, by_pages: bool = True) -> None:
    """Make `asked_vectors` and `asked_bases`: the rows of these users in `history_vectors` and `persona_vectors`.

    `by_pages` may be turned off for a user who fills whole row groups, whose rows would be copied for nothing.

    Raises:
        PplugError: if a file is not there.
    """
    is_few = len(users) <= MOST_SPELLED
    if is_few:
        ids = ", ".join("'" + user.replace("'", "''") + "'" for user in sorted(users)) or "null"
    else:
        db.execute(
            "create or replace temp table asked as select unnest($users::text[]) as user_id", {"users": [*users]}
        )
        ids = "select user_id from asked"
    for view, table in VIEWS.items():
        rows = f"select * from {table} where user_id in ({ids})"
        paged = _read_pages(db, table, users) if by_pages and users and is_few else None
        if paged is not None:
            db.register(f"paged_{table}", paged)
            rows = f"select {selected(TABLES[table])} from paged_{table}"
        db.execute(f"create or replace temp view {view} as {rows}")


def _read_pages(db: duckdb.DuckDBPyConnection, table: str, users: Collection[str]) -> pa.Table | None:
    """The rows of these users, times as they are stored; None if the table is not large."""
    files = db.execute("select path, ds from large_files where view_name = $1", [table]).fetchall()
    if not files:
        return None
    schema, ids = file_schema(table), sorted(users)
    rows = list[pa.Table]()
    for path, ds in files:
        with lost_files():
            own = rows_of_users(Path(path), schema, ids)
        rows.append(own.append_column("ds", pa.array([ds] * own.num_rows, pa.date32())))
    return pa.concat_tables(rows)  # once and not file by file, which takes DuckDB half as long as reading the file


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
