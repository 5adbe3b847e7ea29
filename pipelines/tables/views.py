"""DuckDB over the published tables: one view per table of the contract, and the queries of `sql/`.

A view reads the live files of one Delta version, so superseded files are never read twice. Times are UTC TIMESTAMP,
vectors FLOAT[]. A table that does not exist yet is an empty view.
"""

import contextlib
import os
import socket
import uuid
from collections.abc import Generator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from embedder.errors import PplugError, UsageError
from pipelines.tables.schema import TABLES, file_schema
from pipelines.tables.warehouse import Warehouse

SQL_ROOT = Path(__file__).parents[2] / "sql"
"""In a checkout and in an installed wheel alike."""

SPILL = "_spill-"
"""How a folder of temporary files begins; process and machine follow, so that it can go when they have."""


def quoted(path: Path) -> str:
    """A path that DuckDB reads literally: its file lists are glob patterns."""
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in str(path))


def selected(schema: pa.Schema) -> str:
    """The columns of a table, times as UTC TIMESTAMP (a TIMESTAMP WITH TIME ZONE shows in the reader's zone)."""
    return ", ".join(
        f"timezone('UTC', {field.name}) as {field.name}" if pa.types.is_timestamp(field.type) else field.name
        for field in schema
    )


def read_files(db: duckdb.DuckDBPyConnection, name: str, files: Sequence[Path]) -> duckdb.DuckDBPyRelation:
    """The rows of files of one table, with `filename` and the night that Delta's log gives each file as `ds`.

    Never by `hive_partitioning`: that takes every folder of the whole path, like /data/user_id=7, for a column. A
    filter on `ds` still leaves out whole files: DuckDB computes what depends on `filename` alone before it reads.
    """
    if not files:
        return db.from_arrow(TABLES[name].append(pa.field("filename", pa.string())).empty_table())
    start = len(str(files[0].parent.parent)) + len("/ds=") + 1  # the log names each file ds=<night>/<run>.parquet
    rows = db.read_parquet([quoted(file) for file in files], hive_partitioning=False, filename=True)
    columns = ", ".join(file_schema(name).names)
    return rows.project(f"{columns}, cast(substr(filename, {start}, 10) as date) as ds, filename")


def create_view(db: duckdb.DuckDBPyConnection, name: str, files: Sequence[Path]) -> None:
    """Make one table readable under its own name."""
    read_files(db, name, files).project(selected(TABLES[name])).create_view(name)


@contextlib.contextmanager
def connect(
    warehouse: Warehouse, versions: Mapping[str, int] | None = None, memory_limit: str = "1GB"
) -> Generator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with a view of every table.

    Args:
        warehouse: read only.
        versions: the Delta versions to read, as `Warehouse.versions` gave them; a table that is not named is empty.
            The newest ones unless given.
        memory_limit: DuckDB's, beyond it sorts and joins go to temporary files in the warehouse.
    """
    pinned = warehouse.versions() if versions is None else versions
    spill_name = f"{SPILL}{os.getpid()}-{socket.gethostname()}-{uuid.uuid4().hex}"
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory_limit,
        "temp_directory": str(warehouse.root / spill_name),
        "autoinstall_known_extensions": False,
    }
    with duckdb.connect(":memory:", config=settings) as db:
        db.execute("set TimeZone = 'UTC'")
        with lost_files():
            for name in TABLES:
                create_view(db, name, warehouse.files(name, pinned[name]) if name in pinned else [])
        yield db


@contextlib.contextmanager
def lost_files() -> Generator[None]:
    """Tell in one line of a file that Delta's log names and that is not there, or cannot be read."""
    try:
        yield
    except duckdb.IOException as error:
        said = str(error).splitlines()[0]
        raise PplugError(f"a file of the warehouse cannot be read ({said}): restore it and run again") from error


def query_text(name: str) -> str:
    """The text of `sql/<name>.sql`.

    Raises:
        UsageError: if there is no such file.
    """
    path = SQL_ROOT / f"{name}.sql"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in SQL_ROOT.glob("*.sql")))
        raise UsageError(f"no query {name!r}: there are {there}")
    return path.read_text(encoding="utf8")


def run_sql(
    db: duckdb.DuckDBPyConnection, name: str, params: Mapping[str, str | int | float | bool | date] | None = None
) -> pa.Table:
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
        raise UsageError(f"query {name} with {values}: {str(error).splitlines()[0]}") from error
