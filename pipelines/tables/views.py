"""DuckDB over the published tables: one view per table of the contract, those of personas, and the queries of `sql/`.

A view reads the live files of one Delta version, so superseded files are never read twice. Times are UTC TIMESTAMP,
vectors FLOAT[]. A table that does not exist yet is an empty view.

    folder        ─▶ DuckDB reads the Parquet files itself
    object store  ─▶ a pyarrow dataset over the store, registered in DuckDB: the same rows, no extension of DuckDB
"""

import contextlib
import itertools
import os
import tempfile
import threading
from collections.abc import Generator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb
import pyarrow as pa

from embedder.errors import PplugError, UsageError
from pipelines.tables.data_files import DataFile
from pipelines.tables.macros import create_change_macro, create_persona_views
from pipelines.tables.schema import TABLES
from pipelines.tables.sql_files import query_text
from pipelines.tables.warehouse import Warehouse

ALSO: Final = {"settled_histories": "histories", "reusable_vectors": "history_vectors"}
"""Views of some files of a table beside the others, which `encode` asks for."""


LARGE_BYTES: Final = 16 * 2**20
"""Of a table on this machine, from which on some users' rows are read by pages."""

GAP_BYTES: Final = 2**14
"""Most that DuckDB reads over between two columns. Left alone, a cost model of its own decides; once in seven runs it
took 445 MB for 17 MB of keys, as if it had read over the vectors."""

QUERY_MEMORY: Final = "PPLUG_QUERY_MEMORY"
"""The variable that says how much memory a DuckDB takes, like 4G; 640M unless set."""


def quoted(path: Path) -> str:
    """A path that DuckDB reads literally: its file lists are glob patterns."""
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in str(path))


def selected(schema: pa.Schema) -> str:
    """The columns of a table, times as UTC TIMESTAMP (a TIMESTAMP WITH TIME ZONE shows in the reader's zone)."""
    return ", ".join(
        f"timezone('UTC', {field.name}) as {field.name}" if pa.types.is_timestamp(field.type) else field.name
        for field in schema
    )


NIGHT_OF_FILE: Final = r"regexp_extract(filename, '[/\\]ds=([^/\\]*)[/\\][^/\\]*$', 1)::date as ds"
"""The night is the name of the file's own folder, which is Delta's partition value; folders further up may be named
like columns and mean nothing."""


def create_view(
    db: duckdb.DuckDBPyConnection, view: str, warehouse: Warehouse, name: str, files: Sequence[DataFile]
) -> None:
    """Make a view of files of a table; only the columns and the files that a query asks for are read in the end."""
    if files and warehouse.store.folder is None:
        rows = db.from_arrow(warehouse.dataset(name, files))
        rows.project(selected(TABLES[name])).create_view(view)
        return
    rows = rows_of_files(warehouse.root, name, files) if files else no_rows(name)
    db.execute(f"create view {view} as select {selected(TABLES[name])} from ({rows})")


def rows_of_files(root: Path, name: str, files: Sequence[DataFile]) -> str:
    """A query of files on this machine; as text, since DuckDB looks through a relation at every step that makes it."""
    paths = ", ".join("'" + quoted(root / file.name).replace("'", "''") + "'" for file in files)
    columns = ", ".join(column if column != "ds" else NIGHT_OF_FILE for column in TABLES[name].names)
    return f"select {columns} from read_parquet([{paths}], filename = true, hive_partitioning = false)"


@cache
def no_rows(name: str) -> str:
    """A query of a table's columns that finds nothing."""
    with duckdb.connect() as db:
        rows = db.from_arrow(TABLES[name].empty_table())
        columns = ", ".join(f"null::{kind} as {column}" for column, kind in zip(rows.columns, rows.types, strict=True))
    return f"select {columns} where false"


def open_database(spill: Path | str, memory_limit: str | None = None) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB in memory that reads in UTC and says nothing meanwhile.

    Args:
        spill: a folder for sorts and joins that do not fit, which DuckDB makes and removes.
        memory_limit: beyond it they go there; that of `QUERY_MEMORY` unless given.
    """
    settings: dict[str, Any] = {"temp_directory": str(spill), "autoinstall_known_extensions": False}
    limit = memory_limit or query_memory()
    db = silenced(duckdb.connect(config=settings | {"memory_limit": limit, "TimeZone": "UTC"}))
    return db.execute(f"set global parquet_prefetch_column_gap = {GAP_BYTES}")  # `connect` refuses it


def query_memory() -> str:
    """How much memory a DuckDB takes unless told otherwise."""
    return os.environ.get(QUERY_MEMORY, "640M")


def silenced(db: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Draw no bar of progress."""
    with contextlib.suppress(duckdb.InvalidInputException):  # only a notebook could draw one
        db.execute("set enable_progress_bar = false")
    return db


class _Shared(NamedTuple):
    """A DuckDB that lives as long as the process: starting one takes 20 CPU milliseconds, a night asks six times."""

    db: duckdb.DuckDBPyConnection
    spill: tempfile.TemporaryDirectory[str]


@cache
def _shared(memory_limit: str, folder: str, process: int) -> _Shared:
    del process  # one that was forked must not go on with its parent's
    spill = tempfile.TemporaryDirectory(prefix="pplug-", dir=folder)
    db = open_database(Path(spill.name, "duckdb"), memory_limit)
    return _Shared(db.execute("set enable_external_file_cache = false"), spill)  # it would keep what was read for good


_rooms: Final = itertools.count()
_starting: Final = threading.Lock()


@contextlib.contextmanager
def shared_database() -> Generator[duckdb.DuckDBPyConnection]:
    """A database in memory, empty and nobody else's, in this process's DuckDB, whose settings must stay as they are."""
    name = f"room_{next(_rooms)}"
    with _starting:
        shared = _shared(query_memory(), tempfile.gettempdir(), os.getpid())
    with silenced(shared.db.cursor()) as db:
        db.execute(f"attach ':memory:' as {name}")
        db.execute(f"use {name}")
        try:
            yield db
        finally:
            db.execute("use memory")
            db.execute(f"detach {name}")


@contextlib.contextmanager
def connect(
    warehouse: Warehouse, files: Mapping[str, Sequence[DataFile]] | None = None
) -> Generator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with a view of every table.

    Args:
        warehouse: read only.
        files: of each table, or view of `ALSO`; others have no view then. Unless given, all live ones as of now.

    Raises:
        PplugError: if a version or a file is not there.
    """
    with shared_database() as db:
        make_views(db, warehouse, {name: warehouse.live(name) for name in TABLES} if files is None else files)
        yield db


def asked_table(warehouse: Warehouse, table: str, query: str, params: Mapping[str, Any] | None = None) -> pa.Table:
    """Run a query of sql/ that reads one table alone, as it is now; without the views of the others it is fast."""
    with connect(warehouse, files={table: warehouse.live(table)}) as db:
        return run_sql(db, query, params)


def make_views(db: duckdb.DuckDBPyConnection, warehouse: Warehouse, files: Mapping[str, Sequence[DataFile]]) -> None:
    """Make a view of every table over its files, and those of personas where their tables are among them.

    Raises:
        PplugError: if a file is not there.
    """
    with lost_files():
        for view, there in files.items():
            create_view(db, view, warehouse, ALSO.get(view, view), there)
        note_large_files(db, warehouse, files)
        if "settled_histories" in files:
            create_change_macro(db)
        if {"runs", "persona_vectors"} <= files.keys():
            create_persona_views(db)


def note_large_files(
    db: duckdb.DuckDBPyConnection, warehouse: Warehouse, files: Mapping[str, Sequence[DataFile]]
) -> None:
    """Make `large_files`: the path and the night of every file behind the views of large tables of this machine."""
    rows = [
        (view, str(warehouse.store.folder / file.name), file.ds)
        for view, there in files.items()
        if warehouse.store.folder is not None and sum(file.size for file in there) >= LARGE_BYTES
        for file in there
    ]
    db.execute("create temp table large_files (view_name text, path text, ds date)")
    if rows:
        views, paths, nights = zip(*rows, strict=True)
        db.execute("insert into large_files select unnest($1), unnest($2), unnest($3)", [views, paths, nights])


@contextlib.contextmanager
def lost_files() -> Generator[None]:
    """Tell in one line of a file that Delta's log names and that is not there, or cannot be read."""
    try:
        yield
    except (duckdb.IOException, OSError) as error:
        said = str(error).splitlines()[0]
        raise PplugError(f"a file of the warehouse cannot be read ({said}): restore it and run again") from error


def run_sql(db: duckdb.DuckDBPyConnection, name: str, params: Mapping[str, Any] | None = None) -> pa.Table:
    """The rows of a file of `sql/`, run unedited.

    Args:
        db: from `connect`.
        name: path below `sql/` without the ending, for example `checks/unit_vectors`.
        params: values of its `$params`; more or fewer than the file uses is an error.

    Raises:
        PplugError: if a file of a table is gone.
        UsageError: if there is no such query or the parameters do not fit.
    """
    text = query_text(name)
    values: dict[str, Any] = dict(params or {})
    try:
        with lost_files():
            return db.sql(text, params=values).to_arrow_table()
    except duckdb.InvalidInputException as error:
        named = ", ".join(sorted(values)) or "no parameters"  # their values may be ids of users
        raise UsageError(f"query {name} with {named}: {str(error).splitlines()[0]}") from error
