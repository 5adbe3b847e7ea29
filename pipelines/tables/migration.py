"""Bring a warehouse of an older schema version forward: columns it lacks are added, empty.

    table of an older version ─▶ columns added ─▶ files rewritten with them, in one commit ─▶ version raised

Whatever step a kill comes after, the next command goes on there. A change that empty columns do not make good needs a
step of its own here when it comes.
"""

import uuid
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema

from embedder.errors import PplugError
from pipelines.tables.parquet import night_of, write_shard
from pipelines.tables.schema import SCHEMA_VERSION, TABLES
from pipelines.tables.warehouse import VERSION_KEY, Warehouse


def migrate(warehouse: Warehouse) -> list[str]:
    """Bring every table forward that needs it; a table of this version costs a look at its log.

    Returns:
        The names of the tables that were changed.

    Raises:
        PplugError: if a column is missing that may not be empty, or a table is of a newer version.
    """
    found = {name: table for name in TABLES if (table := warehouse.table(name)) is not None}
    older = {name: table for name, table in found.items() if _version(table) < SCHEMA_VERSION}
    for name, table in older.items():
        _bring_forward(warehouse, name, table)
    return list(older)


def _version(table: DeltaTable) -> int:
    return int(table.metadata().configuration[VERSION_KEY])


def _bring_forward(warehouse: Warehouse, name: str, table: DeltaTable) -> None:
    known = {field.name for field in table.schema().fields}
    new = [field for field in TABLES[name] if field.name not in known]
    needed = [field.name for field in new if not field.nullable]
    if needed:
        told = f"{warehouse.folder(name)} has schema version {_version(table)} and no column {needed[0]}"
        raise PplugError(f"{told}: make the warehouse anew, or `pip install` the pplug that wrote it")
    if new:
        table.alter.add_columns(Schema.from_arrow(pa.schema(new)).fields)
    _fill_files(warehouse, name, [field for field in TABLES[name] if field.name != "ds"])
    table.update_incremental()
    table.alter.set_table_properties({VERSION_KEY: str(SCHEMA_VERSION)}, raise_if_not_exists=False)


def _fill_files(warehouse: Warehouse, name: str, fields: Sequence[pa.Field]) -> None:
    """Rewrite the live files that lack a column."""
    version, names = warehouse.version(name), [field.name for field in fields]
    old = [path for path in warehouse.files(name, version) if pq.read_schema(path).names != names]
    if not old or version is None:
        return
    run_id = f"migration-{uuid.uuid4().hex}"
    with warehouse.staging(run_id) as folder:
        new = [(night_of(path), _filled(path, folder / f"{at}.parquet", fields)) for at, path in enumerate(old)]
        warehouse.swap(name, run_id, old, new, version)


def _filled(old: Path, new: Path, fields: Sequence[pa.Field]) -> Path:
    rows = pq.ParquetFile(old).read()
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in fields
    ]
    write_shard(new, pa.Table.from_arrays(columns, schema=pa.schema(fields)))
    return new
