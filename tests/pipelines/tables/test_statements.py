"""`pplug sql` against statements that try to write, or to read anything but the tables."""

# As in test_queries: without this, DuckDB reports types that Hypothesis keeps as leaked.
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_night import live_paths

from embedder.errors import PplugError, UsageError
from pipelines.tables.queries import connect_locked, run_statement
from pipelines.tables.schema import TABLES
from pipelines.tables.warehouse import Warehouse

NIGHT = date(2026, 11, 1)
SECRET = "nobody may read this"


def fill(root: Path) -> Warehouse:
    """A warehouse with one item, a key, a shard and a file that no table holds any more."""
    warehouse = Warehouse(root / "warehouse")
    row = {"user_id": "ann", "item_id": "1", "kind": "note", "posted_at": datetime.now(UTC), "text": "a"}
    item = pa.Table.from_pylist([row | {"output": "b", "ds": NIGHT}], schema=TABLES["histories"])
    warehouse.append("histories", NIGHT, "run", item)
    for path in (root / "out", warehouse.root / "_shards", warehouse.root / "histories" / "ds=2026-10-01"):
        path.mkdir()
        pq.write_table(pa.table({"a": [SECRET]}), path / "old.parquet", compression="none")
        (path / "secret.csv").write_text(f"a\n{SECRET}\n")
    (warehouse.root / "_forgotten.key").write_text(SECRET)
    return warehouse


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return fill(tmp_path_factory.mktemp("asked"))


def state(warehouse: Warehouse) -> str:
    """A hash of every file there is, and where."""
    digest = hashlib.sha256()
    for path in sorted(warehouse.root.parent.rglob("*")):
        digest.update(f"{path}\n".encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def ask(warehouse: Warehouse, text: str) -> str:
    with connect_locked(warehouse) as db:
        return str(run_statement(db, text).to_pylist())


LIVE, NEW, KEY, LOST = "LIVE", "WH/histories/ds=2026-11-01/x.parquet", "WH/_forgotten.key", "WH/_shards/old.parquet"
targets = st.sampled_from([LIVE, NEW, KEY, LOST, "OUT/x.csv", "WH/histories/_delta_log/00000000000000000000.json"])
sources = st.sampled_from([KEY, LOST, "OUT/old.parquet", "OUT/secret.csv", "OUT/*", "WH/**", "WH/_shards/secret.csv"])
rows = st.sampled_from(["select * exclude ds from histories limit 0", "select 'x' as user_id", "from histories"])
options = st.sampled_from(["", "(format parquet)", "(format parquet, use_tmp_file false)", "(format csv)", "(header)"])
copies = st.builds("copy ({}) to '{}' {}".format, rows, targets, options)
changes = st.sampled_from(
    ["insert into histories values (1) returning *", "delete from histories returning *", "update histories set ds = 1"]
)
OPENERS = """
read_blob read_text read_csv read_parquet parquet_scan glob sniff_csv read_json parquet_metadata query_table
read_json_objects parquet_schema read_csv_auto parquet_file_metadata read_duckdb
"""
openers = st.sampled_from(OPENERS.split())
opened = st.builds("from {}('{}')".format, openers, sources) | st.builds("from '{}'".format, sources)
wrapped_text = st.builds(lambda text: text.replace("'", "''"), copies | opened)
run_texts = st.builds("from query('{}')".format, wrapped_text) | st.builds(
    "from json_execute_serialized_sql(json_serialize_sql('{}'))".format, wrapped_text
)
commands = copies | st.sampled_from(
    [
        "attach 'OUT/x.db' as other",
        "attach 'WH/_forgotten.key' as other (read_only)",
        "export database 'OUT/all'",
        "import database 'OUT'",
        "set allowed_directories = ['WH']",
        "reset enable_external_access",
        "pragma enable_profiling = 'json'",
        "pragma profiling_output = 'OUT/profile'",
        "call enable_logging(storage = 'file', storage_path = 'OUT/log')",
        "from enable_logging(storage = 'file', storage_path = 'OUT/log')",
        "from checkpoint()",
        "create table mine as from histories",
        "create macro mine() as table from read_blob('WH/_forgotten.key')",
        "create or replace view histories as select 1",
        "install httpfs",
        "load 'OUT/x.duckdb_extension'",
        "prepare p as copy (select 1) to 'OUT/x.csv'",
        "copy histories from 'OUT/secret.csv'",
        "copy from database memory to other",
        "select write_log('x')",
        "select getenv('HOME')",
        "vacuum",
        "checkpoint",
    ]
)


def around(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Statements that hold others."""
    forms = [
        "with c as ({0}) select * from c",
        "with c as materialized ({0}), d as (from c) from d union all from d",
        "with recursive r as (({0}) union all from r) from r",
        "select * from ({0}) as t",
        "select ({0}) as a, exists({0}) as b",
        "from histories where user_id in ({0})",
        "from histories, lateral ({0})",
        "(({0}) union all ({0})) order by 1",
        "describe ({0})",
        "summarize ({0})",
        "pivot ({0}) on user_id using count(*)",
        "pivot ({0}) on user_id in ('ann') using count(*)",
        "unpivot ({0}) on *",
        "explain {0}",
        "EXPLAIN ANALYZE {0}",
        "explain (analyze, format json) {0}",
        "/* from histories */ {0} -- done",
        "select 1; {0}",
        "{0}; select 1",
    ]
    return st.builds(lambda form, text: form.format(text), st.sampled_from(forms), inner)


attacks = st.recursive(copies | changes | opened | run_texts, around, max_leaves=3) | around(commands) | commands


def spelled(warehouse: Warehouse, text: str) -> str:
    live = str(live_paths(warehouse, "histories")[0])
    return (
        text.replace("LIVE", live).replace("WH", str(warehouse.root)).replace("OUT", str(warehouse.root.parent / "out"))
    )


@pytest.fixture(scope="module")
def db(warehouse: Warehouse) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect_locked(warehouse) as connection:
        yield connection


@settings(deadline=None, max_examples=150)
@given(attacks)
def test_no_statement_writes_or_reads_more_than_the_tables(
    warehouse: Warehouse, db: duckdb.DuckDBPyConnection, text: str
) -> None:
    before = state(warehouse)
    try:
        told = str(run_statement(db, spelled(warehouse, text)).to_pylist())
    except PplugError as error:
        told = str(error)
        assert "\n" not in told
    assert SECRET not in told
    assert state(warehouse) == before


@pytest.mark.parametrize("before", ["", "explain ", "explain analyze ", "explain\tAnalyze\n"])
@pytest.mark.parametrize("sort", ["copy ({}) to '{}' (format parquet)", "copy ({}) to '{}' (use_tmp_file false)"])
def test_a_copy_inside_a_query_is_refused_by_name(warehouse: Warehouse, before: str, sort: str) -> None:
    inner = sort.format("select * exclude ds from histories limit 0", LIVE)
    told = "pplug sql only reads, saw copy: run `pplug sql 'show tables'`"
    with pytest.raises(UsageError, match=told):
        ask(warehouse, spelled(warehouse, f"{before}with c as ({inner}) select * from c"))
    assert ask(warehouse, "select user_id from histories") == "[{'user_id': 'ann'}]"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("from read_blob('WH/_forgotten.key')", "saw the function read_blob"),
        ("select * from Histories where 'x' in (from glob('WH/*'))", "saw the function glob"),
        ("from query('select 1')", "saw the function query"),
        ("with c as (delete from histories returning *) from c", "saw delete"),
        ("explain analyze select 1 + (with c as (insert into x values (1) returning *) from c)", "saw insert"),
        ("pivot (with c as (copy (select 1) to 'OUT/x') from c) on x", "saw the word copy in a pivot without"),
        ("pivot (from read_blob('WH/_forgotten.key')) on size", "saw the word read_blob in a pivot"),
        ("explain pragma version", "saw a statement of type pragma"),
        ("from 'WH/_shards/old.parquet'", "Permission Error"),
        ("select " + "(" * 3000 + "1" + ")" * 3000, "Error"),
    ],
)
def test_what_is_refused_is_named(warehouse: Warehouse, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ask(warehouse, spelled(warehouse, text))


@pytest.mark.parametrize(
    "text",
    [
        "with a as (from histories), b as materialized (from a) from b join a using (user_id)",
        "with recursive r as (select 1 as n union all select n + 1 from r where n < 3) from r",
        "describe select * from histories",
        "from (describe histories)",
        "summarize (from histories)",
        "show all tables",
        "from duckdb_tables()",
        "from information_schema.columns",
        "explain with a as (from histories) from a",
        "explain analyze from histories",
        "from histories where exists (from tasks) or user_id = any(select user_id from tasks) limit 50%",
        "unpivot (select 1 as a, 2 as b) on a, b",
        "pivot histories on kind in ('note') using count(*)",
        "from (pivot histories on kind using count(*) group by user_id)",
        "select list_transform([1], lambda n: n + 1), 'copy' as \"delete\", {'type': 'COPY'}, x from range(3) as t(x)",
        "from histories tablesample 10%",
        "select count(*) filter (true) over w from histories window w as (partition by ds) qualify true",
    ],
)
def test_what_only_reads_is_run(warehouse: Warehouse, text: str) -> None:
    assert ask(warehouse, text).startswith("[")


@pytest.mark.parametrize("name", ["[x]", "st*r", "x]", "it's", "a b"])
def test_a_warehouse_of_any_name_can_be_asked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert ask(fill(tmp_path / name), "select user_id from histories") == "[{'user_id': 'ann'}]"
