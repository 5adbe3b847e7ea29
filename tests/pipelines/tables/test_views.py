"""Views show the live rows of one version, typed as in the contract."""

import os
from datetime import date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from embedder.errors import PplugError, UsageError
from pipelines.cli import main
from pipelines.tables.parquet import write_shard
from pipelines.tables.schema import TABLES, file_schema
from pipelines.tables.sql_files import query_text
from pipelines.tables.views import GAP_BYTES, QUERY_MEMORY, connect, run_sql
from pipelines.tables.warehouse import Warehouse

NIGHT = date(2026, 11, 20)
TYPES = {
    "posted_at": "TIMESTAMP",
    "vector": "TINYINT[]",
    "vectors": "TINYINT[][]",
    "vector_scales": "FLOAT[]",
    "persona": "FLOAT[]",
    "counts": "INTEGER[]",
    "items": "STRUCT(kind VARCHAR, item_id VARCHAR)[]",
    "top_items": "STRUCT(kind VARCHAR, item_id VARCHAR, weight FLOAT)[]",
    "choices": "VARCHAR[]",
    "ds": "DATE",
    "persona_ds": "DATE",
    "score": "FLOAT",
    "rows_in": "BIGINT",
    "user_id": "VARCHAR",
}


def reject(row_id: str) -> pa.Table:
    row = {"job": "j", "row_id": row_id, "reason": "r", "detail": "", "run_id": "r", "source": "s"}
    return pa.Table.from_pylist([row], schema=file_schema("rejects"))


@pytest.mark.parametrize("is_empty", [True, False])
def test_every_table_is_a_view_with_the_types_of_the_contract(is_empty: bool, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for name in [] if is_empty else TABLES:
        samples = {field.name: pa.array([None], field.type) for field in file_schema(name)}
        write_shard(tmp_path / f"{name}.parquet", pa.table(samples))
        warehouse.publish(name, NIGHT, "r", [tmp_path / f"{name}.parquet"])
    with connect(warehouse) as db:
        for name, schema in TABLES.items():
            found = {row[0]: row[1] for row in db.execute(f"describe {name}").fetchall()}
            assert list(found) == schema.names
            assert {c: found[c] for c in found if c in TYPES} == {c: TYPES[c] for c in found if c in TYPES}
            assert db.execute(f"select count(*) from {name}").fetchall() == [(0 if is_empty else 1,)]


def test_a_pinned_version_hides_what_was_written_later(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.append("rejects", NIGHT, "r", reject("first"))
    pinned = warehouse.version("rejects")
    warehouse.append("rejects", NIGHT, "r", reject("second"))
    with connect(warehouse, {"rejects": warehouse.live("rejects", pinned)}) as db:
        assert db.execute("select row_id from rejects").fetchall() == [("first",)]
    with connect(warehouse, {"rejects": []}) as db:
        assert db.execute("select row_id from rejects").fetchall() == []
    with connect(warehouse) as db:
        assert db.execute("select count(*) from rejects").fetchall() == [(2,)]


def test_a_version_or_a_table_that_is_not_there_is_an_error_and_never_empty(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "w")
    warehouse.append("rejects", NIGHT, "r", reject("first"))
    for place, version in ((warehouse, 7), (Warehouse(tmp_path / "elsewhere"), 1)):
        with pytest.raises(PplugError, match=r"rejects (cannot be read|version 1 is not seen)"):
            place.live("rejects", version)


@pytest.mark.parametrize("above", ["ds=2020-01-01", "user_id=zzz", "kind=x", "a[b]*", "with space"])
def test_folders_above_the_warehouse_mean_nothing(above: str, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / above / "w")
    warehouse.append("rejects", NIGHT, "r", reject("first"))
    with connect(warehouse) as db:
        assert db.execute("select row_id, user_id, ds from rejects").fetchall() == [("first", None, NIGHT)]


def test_a_night_reads_its_own_files_only(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for day in (19, 20, 21):
        warehouse.append("rejects", date(2026, 11, day), "r", reject(str(day)))
    with connect(warehouse) as db:
        plan = db.sql("explain analyze select row_id from rejects where ds = date '2026-11-20'").fetchall()[0][1]
    assert "Total Files Read: 1" in plan


def test_an_open_view_keeps_its_version(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.append("rejects", NIGHT, "r", reject("first"))
    with connect(warehouse) as db:
        warehouse.publish("rejects", NIGHT, "r", [])
        assert db.execute("select row_id from rejects").fetchall() == [("first",)]


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    with connect(Warehouse(tmp_path / "none")) as db:
        db.execute("select * from runs").fetchall()
    assert list(tmp_path.iterdir()) == []


def test_times_are_shown_in_utc_wherever_the_reader_is(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    moment = datetime.fromisoformat("2026-11-20T23:30:00+00:00")
    row = {"user_id": "u", "item_id": "i", "kind": "k", "posted_at": moment, "text": "t", "is_edit": False}
    warehouse.append("histories", NIGHT, "r", pa.Table.from_pylist([row], schema=file_schema("histories")))
    with connect(warehouse) as db:
        db.execute("set TimeZone = 'Asia/Tokyo'")
        assert db.execute("select posted_at, posted_at::date from histories").fetchall() == [
            (moment.replace(tzinfo=None), NIGHT)
        ]


def test_sorts_beyond_the_memory_limit_go_to_disk_and_leave_nothing_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(QUERY_MEMORY, "60MB")
    with connect(Warehouse(tmp_path / "w")) as db:
        db.execute("create temp table wide as select i, repeat(md5(i::text), 20) as t from range(200000) r(i)")
        assert any(path.is_file() for path in tmp_path.rglob("*")), "it went to disk"
        assert db.execute("select count(*) from wide").fetchall() == [(200000,)]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) == 0


def test_connections_see_nothing_of_each_other(tmp_path: Path) -> None:
    with connect(Warehouse(tmp_path)) as one, connect(Warehouse(tmp_path)) as other:
        one.execute("create table own as select 1; create temp table mine as select 2")
        assert one.execute("from own, mine").fetchall() == [(1, 2)]
        for name in ("own", "mine"):
            with pytest.raises(duckdb.CatalogException):
                other.execute(f"from {name}")


def test_no_connection_reads_over_vectors_as_it_likes(tmp_path: Path) -> None:
    with connect(Warehouse(tmp_path)) as db:
        assert db.sql("select current_setting('parquet_prefetch_column_gap')").fetchall() == [(GAP_BYTES,)]


def test_a_query_that_is_not_there_is_refused_with_the_names_of_those_that_are() -> None:
    with pytest.raises(UsageError, match="no query 'nothing': there are"):
        query_text("nothing")


@pytest.mark.parametrize("params", [{}, {"ds": NIGHT, "more": 1}])
def test_parameters_that_do_not_fit_are_refused_in_one_line(params: dict[str, date | int], tmp_path: Path) -> None:
    with connect(Warehouse(tmp_path)) as db, pytest.raises(UsageError, match=r"jobs/tasks_of_users with [^\n]*$"):
        run_sql(db, "jobs/tasks_of_users", params)


def test_a_query_of_an_empty_warehouse_has_columns_and_no_rows(tmp_path: Path) -> None:
    with connect(Warehouse(tmp_path)) as db:
        assert run_sql(db, "jobs/task_counts", {"ds": NIGHT}).num_rows == 0


def test_the_variable_and_the_flag_limit_what_queries_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(QUERY_MEMORY, "60M")
    with connect(Warehouse(tmp_path / "w")) as db:
        assert db.sql("select current_setting('memory_limit')").fetchall() == [("57.2 MiB",)]
    ask = ["query", "history_size", "--warehouse", str(Warehouse(tmp_path / "w").root), "--query-memory", "80M"]
    Warehouse(tmp_path / "w").create("histories")
    assert main(ask) == 0, capsys.readouterr().err
    assert os.environ[QUERY_MEMORY] == "80M"
