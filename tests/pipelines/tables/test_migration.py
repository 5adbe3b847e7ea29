"""A warehouse that an older pplug wrote; the tests write one with Delta Lake itself."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Field, write_deltalake
from deltalake.schema import PrimitiveType

from embedder.errors import PplugError
from pipelines.tables.migration import migrate
from pipelines.tables.schema import SCHEMA_VERSION, TABLES, file_schema
from pipelines.tables.views import connect
from pipelines.tables.warehouse import VERSION_KEY, Warehouse

NIGHT = date(2026, 11, 1)


def old_table(warehouse: Warehouse, name: str, without: str, rows: list[dict[str, Any]]) -> None:
    """A table of version 0 that lacks a column of today."""
    schema = pa.schema([field for field in TABLES[name] if field.name != without])
    uri = warehouse.folder(name).as_uri()
    DeltaTable.create(uri, schema, partition_by=["ds"], configuration={VERSION_KEY: "0"}, raise_if_key_not_exists=False)
    write_deltalake(uri, pa.Table.from_pylist(rows, schema=schema), mode="append")


def item(user: str) -> dict[str, Any]:
    posted = datetime(2026, 10, 1, tzinfo=UTC)
    return {"user_id": user, "item_id": "1", "kind": "k", "posted_at": posted, "text": "t", "ds": NIGHT}


def test_columns_that_an_older_table_lacks_are_added_empty(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    old_table(warehouse, "histories", "output", [item("ann"), item("bob")])
    warehouse.create("tasks")
    assert migrate(warehouse) == ["histories"]
    with connect(warehouse) as db:
        found = db.sql("select user_id, output, ds from histories order by user_id").fetchall()
    assert found == [("ann", None, NIGHT), ("bob", None, NIGHT)]
    table = warehouse.table("histories")
    assert table is not None
    assert table.metadata().configuration[VERSION_KEY] == str(SCHEMA_VERSION)
    assert migrate(warehouse) == []


def test_a_migrated_table_is_written_like_any_other(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    old_table(warehouse, "histories", "output", [item("ann")])
    migrate(warehouse)
    row = item("bob") | {"output": "o"}
    warehouse.append("histories", NIGHT, "r", pa.Table.from_pylist([row], schema=file_schema("histories")))
    with connect(warehouse) as db:
        assert db.sql("select user_id, output from histories order by 1").fetchall() == [("ann", None), ("bob", "o")]


def test_a_migration_that_was_killed_goes_on(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    old_table(warehouse, "histories", "output", [item("ann")])
    table = DeltaTable(warehouse.folder("histories").as_uri())
    table.alter.add_columns(Field("output", PrimitiveType("string")))  # and then the kill
    assert migrate(warehouse) == ["histories"]
    with connect(warehouse) as db:
        assert db.sql("select user_id, output from histories").fetchall() == [("ann", None)]


def test_personas_of_version_2_get_an_empty_recent_mean(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    moment = datetime(2026, 10, 1, tzinfo=UTC)
    row = {"user_id": "ann", "persona": [1.0], "vectors": [[1.0]], "counts": [1], "items": [], "item_count": 1}
    row |= {"first_posted_at": moment, "last_posted_at": moment, "encoder_sha256": "e", "run_id": "r", "ds": NIGHT}
    old_table(warehouse, "persona_vectors", "recent", [row])
    assert migrate(warehouse) == ["persona_vectors"]
    with connect(warehouse) as db:
        assert db.sql("select user_id, counts, recent from persona_vectors").fetchall() == [("ann", [1], None)]


def test_a_column_that_may_not_be_empty_is_named(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    old_table(warehouse, "histories", "text", [])
    with pytest.raises(PplugError, match="schema version 0 and no column text"):
        migrate(warehouse)
