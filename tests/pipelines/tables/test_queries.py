"""Finding queries, typing their parameters, and the locks around `pplug sql`. What the queries say is in tests/sql."""

# Hypothesis keeps its test functions to the end of the process. With evaluated annotations they would keep DuckDB's
# types, which DuckDB then reports on stderr as leaked.
from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder.errors import PplugError, UsageError
from pipelines.tables import queries
from pipelines.tables.macros import create_persona_views
from pipelines.tables.queries import (
    Param,
    describe,
    list_checks,
    list_queries,
    lock_down,
    read_query,
    run_checks,
    run_query,
    run_statement,
)
from pipelines.tables.schema import TABLES

NIGHT = date(2026, 11, 1)


def connect(**tables: pa.Table) -> duckdb.DuckDBPyConnection:
    db = duckdb.connect()
    for name, schema in TABLES.items():
        db.register(name, tables.get(name, schema.empty_table()))
    create_persona_views(db)
    return db


def rows_of(table: str, *rows: dict[str, Any]) -> pa.Table:
    fields = [field.with_nullable(True) for field in TABLES[table]]
    return pa.Table.from_pylist(list(rows), schema=pa.schema(fields))


def personas(*user_ids: str) -> pa.Table:
    return rows_of(
        "persona_vectors", *({"user_id": user_id, "ds": NIGHT, "persona": [1.0, 0.0]} for user_id in user_ids)
    )


def items(*user_ids: str) -> pa.Table:
    item = {"kind": "k", "item_id": "1", "encoder_sha256": "e", "vector": [100, 0], "vector_scale": 0.01}
    facts = item | {"is_deleted": False, "posted_at": datetime(2026, 10, 1, tzinfo=UTC), "ds": NIGHT}
    return rows_of("history_vectors", *(facts | {"user_id": user_id} for user_id in user_ids))


def encoded() -> pa.Table:
    config = json.dumps({"encoder_sha256": "e", "is_full": True, "published": {}})
    return rows_of("runs", {"run_id": "r", "job": "encode", "ds": NIGHT, "status": "done", "config": config})


@pytest.fixture
def db() -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(
        persona_vectors=personas("ann", "bob"), history_vectors=items("ann", "bob"), runs=encoded()
    ) as connection:
        yield connection


def test_the_queries_and_checks_that_are_promised_are_there() -> None:
    queries = {query.name for query in list_queries()}
    assert {"task_coverage", "user_persona", "similar_users", "persona_coverage", "top_items"} <= queries
    assert {"night_summary", "reject_reasons", "evaluation_history", "stale_personas", "persona_drift"} <= queries
    assert not queries & {check.name for check in list_checks()}


def test_a_description_has_what_the_header_says() -> None:
    query = describe("similar_users")
    assert query.grain == "one row per user_id"
    assert query.reads == ("encode_nights", "personas_at", "personas_between")
    assert query.params == (
        Param("user_id", "TEXT", None, ""),
        Param("limit", "INT", "10", ""),
        Param("ds", "DATE", "null", "the newest night"),
        Param("first_user", "TEXT", "null", ""),
        Param("last_user", "TEXT", "null", "all neighbours, a range of them at a time"),
    )


def test_parameters_are_typed_and_have_defaults(db: duckdb.DuckDBPyConnection) -> None:
    assert run_query(db, "similar_users", {"user_id": "ann"}).column("user_id").to_pylist() == ["bob"]
    assert run_query(db, "similar_users", {"user_id": "ann", "ds": "2026-11-01"}).num_rows == 1
    assert run_query(db, "similar_users", {"user_id": "ann", "ds": "2026-10-31"}).num_rows == 0
    assert run_query(db, "similar_users", {"user_id": "ann", "limit": "0"}).num_rows == 0


@given(st.text() | st.sampled_from(["' or true --", "$limit", "%", "null", "ann\0"]))
@settings(deadline=None, max_examples=20)
def test_no_text_is_more_than_a_value(user_id: str) -> None:
    with connect(history_vectors=items("ann", "bob", user_id + "?"), runs=encoded()) as db:
        assert run_query(db, "similar_users", {"user_id": user_id}).num_rows == 2 * (user_id in {"ann", "bob"})


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("task_coverag", {}, "no query 'task_coverag': did you mean `pplug query task_coverage`"),
        ("zzz", {}, "history_size or .*persona_drift"),
        ("../jobs/user_sizes", {}, "no query '../jobs/user_sizes'"),
        ("task_coverage", {"night": "x"}, "no parameter 'night', it takes ds: run `pplug query task_coverage`"),
        ("history_size", {"ds": "x"}, "no parameter 'ds', it takes none: run `pplug query history_size`"),
        ("similar_users", {}, r"needs user_id \(TEXT\): run `pplug query similar_users -p user_id=TEXT`"),
        ("task_coverage", {"ds": "yesterday"}, "ds='yesterday' is no DATE: write it like -p ds=2026-11-01"),
        ("task_coverage", {"ds": ""}, "ds='' is no DATE"),
        ("similar_users", {"user_id": "ann", "limit": "ten"}, "limit='ten' is no INT: write it like -p limit=10"),
        ("similar_users", {"user_id": "ann", "limit": "-1"}, "run `pplug query similar_users -p user_id=TEXT`"),
    ],
)
def test_wrong_usage_is_one_line_with_the_next_step(
    db: duckdb.DuckDBPyConnection, name: str, params: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        run_query(db, name, params)
    assert "\n" not in str(raised.value)


def test_checks_name_the_offending_rows_of_a_night() -> None:
    with connect(persona_vectors=personas("ann", "ann")) as db:
        found = run_checks(db, None)
        assert set(found) == {check.name for check in list_checks()}
        assert found["duplicate_persona_vectors"].to_pylist() == [{"ds": NIGHT, "user_id": "ann", "row_count": 2}]
        assert run_checks(db, date(2026, 11, 2))["duplicate_persona_vectors"].num_rows == 0


def test_nothing_offends_in_an_empty_warehouse() -> None:
    with connect() as db:
        assert {name: rows.num_rows for name, rows in run_checks(db, None).items() if rows.num_rows} == {}
        for query in list_queries():
            required = {param.name: "x" for param in query.params if param.default is None}
            assert run_query(db, query.name, required).num_rows == 0


@pytest.mark.parametrize(
    "text",
    [
        "select user_id from persona_vectors",
        "from persona_vectors;",
        "-- newest first\nwith a as (select 1) select * from a -- done",
        "values (1)",
        "describe persona_vectors",
        "show tables",
        "summarize persona_vectors",
        "explain select 1",
        "EXPLAIN ANALYZE select 1",
        "pivot persona_vectors on user_id using count(*)",
        "select ';' as semicolon",
    ],
)
def test_any_question_may_be_asked(db: duckdb.DuckDBPyConnection, text: str) -> None:
    assert run_statement(db, text).num_columns > 0


@pytest.mark.parametrize(
    "text",
    [
        "copy (select 1) to 'FILE'",
        "explain analyze copy (select 1) to 'FILE'",
        "explain analyze/**/copy (select 1) to 'FILE'",
        "explain (analyze /* ) select 1 -- */) copy (select 1) to 'FILE'",
        "/* explain select */ explain analyze copy (select 1) to 'FILE'",
        "select 1; copy (select 1) to 'FILE'",
        "copy from database memory to other",
        "export database 'FILE'",
        "attach 'FILE' as other",
        "create table mine as select 1",
        "create view mine as select 1",
        "drop view persona_vectors",
        "delete from persona_vectors",
        "set enable_external_access = true",
        "install httpfs",
        "load httpfs",
        "prepare p as copy (select 1) to 'FILE'",
        "begin",
        "",
        "-- nothing",
    ],
)
def test_nothing_may_be_written(db: duckdb.DuckDBPyConnection, tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="run `pplug sql 'show tables'`") as raised:
        run_statement(db, text.replace("FILE", str(tmp_path / "written")))
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    assert db.sql("select count(*) from persona_vectors").fetchall() == [(2,)]


@pytest.mark.parametrize("text", ["select", "select nothing from persona_vectors", "from nowhere", "select 'x'::date"])
def test_what_duckdb_says_is_one_line(db: duckdb.DuckDBPyConnection, text: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*Error[^\n]*: run `pplug sql 'show tables'`$"):
        run_statement(db, text)


def test_a_query_that_fails_for_want_of_memory_is_no_wrong_usage(db: duckdb.DuckDBPyConnection) -> None:
    db.execute("set memory_limit = '10MB'")
    db.execute("set temp_directory = ''")
    with pytest.raises(
        PplugError, match=r"^it needs more than .* of memory: give it more with --query-memory 4G$"
    ) as raised:
        run_statement(db, "select list(i) from range(10000000) as t(i)")
    assert not isinstance(raised.value, UsageError)


def write_parquet(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"a": [1, 2]}), path)
    return path


@pytest.fixture
def locked(tmp_path: Path, db: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    inside = write_parquet(tmp_path / "it's a warehouse" / "t" / "ds=2026-11-01" / "a.parquet")
    write_parquet(tmp_path / "outside.parquet")
    db.read_parquet([str(inside)], hive_partitioning=True).create_view("t")
    lock_down(db, [inside])
    return db


def test_the_views_still_read_after_the_lock(locked: duckdb.DuckDBPyConnection) -> None:
    assert run_statement(locked, "select sum(a)::int as a, ds from t group by ds").to_pylist() == [
        {"a": 3, "ds": NIGHT}
    ]
    assert run_statement(locked, "select user_id from persona_vectors").num_rows == 2


@pytest.mark.parametrize(
    "text",
    [
        "from 'OUT/outside.parquet'",
        "from read_parquet('OUT/it''s a warehouse/../outside.parquet')",
        "from glob('/etc/*')",
        "from read_text('/etc/hostname')",
        "from read_csv('http://127.0.0.1:9/x.csv')",
        "select getenv('HOME')",
        "from written_in_python",
    ],
)
def test_nothing_outside_is_read_after_the_lock(locked: duckdb.DuckDBPyConnection, tmp_path: Path, text: str) -> None:
    written_in_python = pa.table({"a": [1]})
    with pytest.raises(UsageError):
        run_statement(locked, text.replace("OUT", str(tmp_path)))
    assert written_in_python.num_rows == 1


@pytest.mark.parametrize(
    "setting", ["enable_external_access = true", "lock_configuration = false", "memory_limit = '9GB'"]
)
def test_the_lock_has_no_key(locked: duckdb.DuckDBPyConnection, setting: str) -> None:
    with pytest.raises(duckdb.InvalidInputException, match="locked"):
        locked.execute(f"set {setting}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("select 1", "of no header"),
        ("-- q: a row.\n-- Grain:  a\n-- Params: none\n-- Reads:  t\n-- Holds:  a\nselect 1", "Grain, Params, Reads"),
        (
            "-- r: a row.\n-- Grain:  a\n-- Reads:  t\n-- Params: none\n-- Holds:  a\nselect 1",
            "begins with the lines r",
        ),
        ("-- q: a row.\n-- Grain:  a\n-- Reads:  t\n-- Params: $ds\n-- Holds:  a\nselect 1", r"parameters '\$ds'"),
        ("-- q: a row.\n-- Grain:  a\n-- Reads:  t\n-- Params: $n (BLOB)\n-- Holds:  a\nselect 1", "type BLOB"),
    ],
)
def test_a_header_that_cannot_be_read_is_an_error(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "q.sql").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_query(tmp_path / "q.sql")


def test_neighbours_asked_for_a_range_at_a_time_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    users = ["ann", "bob", "cid", "dan", "\U0001f600"]
    vectors = {user: [at * 20, 100] for at, user in enumerate(users)}
    stored = items(*users).to_pylist()
    db = connect(
        runs=encoded(),
        history_vectors=rows_of("history_vectors", *(row | {"vector": vectors[row["user_id"]]} for row in stored)),
    )
    asked = [{"user_id": user, "limit": f"{limit}"} for user in users for limit in (1, 3, 10)]
    whole = [run_query(db, "similar_users", params).to_pylist() for params in asked]
    monkeypatch.setattr(queries, "RANGE_VECTORS", 2)
    assert [run_query(db, "similar_users", params).to_pylist() for params in asked] == whole
    assert [len(rows) for rows in whole[:3]] == [1, 3, 4]
    of_some = run_query(db, "similar_users", {"user_id": "ann", "first_user": "bob", "last_user": "cid"})
    assert sorted(of_some["user_id"].to_pylist()) == ["bob", "cid"]
