"""Every file of sql/ and sql/checks/ against its golden cases.

A case is tests/sql/<query>/<what_the_case_shows>/case.json, or below tests/sql/checks/: `params` as typed on the
command line, input rows per table in `tables`, and the expected `rows`. A column that a row leaves out is null, a
flag false, an item's vector empty. The `config` of a run may be written as what its JSON says.
"""

import json
import math
import re
from datetime import date, datetime
from itertools import takewhile
from pathlib import Path
from typing import TypeAlias

import duckdb
import pyarrow as pa
import pytest

from pipelines.personas.asked import VIEWS as ASKED
from pipelines.tables.macros import create_persona_views
from pipelines.tables.queries import Query, list_checks, list_queries, run_query
from pipelines.tables.schema import TABLES
from pipelines.tables.sql_files import SQL_ROOT
from pipelines.tables.views import ALSO

HERE = Path(__file__).parent
QUERIES = {query.name: query for query in list_queries()}
CHECKS = {check.name: check for check in list_checks()}
CASES = sorted(HERE.rglob("case.json"))
TOLERANCE = 1e-5  # of the contract
MISSING = {"vector": []}
VIEWS = {
    "encode_nights",
    "item_changes",
    "all_histories",
    "live_items",
    "live_items_at",
    "personas",
    "personas_at",
    "changed_personas_at",
    "personas_between",
    "changed_between",
    *ALSO,
}
OTHERS = sorted([*(SQL_ROOT / "views").glob("*.sql"), *(SQL_ROOT / "jobs").glob("*.sql")])

Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | None"
Value: TypeAlias = "dict[str, Value] | list[Value] | str | float | date | None"
Rows: TypeAlias = list[dict[str, Json]]


def typed(value: Json, kind: pa.DataType) -> Value:
    """JSON as the Python value of an Arrow type; "nan" and "inf" are floats."""
    if value is None:
        return False if pa.types.is_boolean(kind) else None
    if pa.types.is_string(kind) and isinstance(value, dict):
        return json.dumps(value)
    if pa.types.is_timestamp(kind):
        return datetime.fromisoformat(value)
    if pa.types.is_date(kind):
        return date.fromisoformat(value)
    if pa.types.is_floating(kind):
        return float(value)
    if pa.types.is_list(kind):
        return [typed(element, kind.value_type) for element in value]
    if pa.types.is_struct(kind):
        return {field.name: typed(value[field.name], field.type) for field in kind}
    return value


def input_table(name: str, rows: Rows) -> pa.Table:
    """Rows of a case with the types of the warehouse, times as UTC TIMESTAMP like in the views."""
    fields = {field.name: field.type for field in TABLES[name]}
    unknown = {column for row in rows for column in row} - set(fields)
    assert not unknown, f"{name} has no column {unknown}"
    kinds = {column: pa.timestamp("us") if pa.types.is_timestamp(kind) else kind for column, kind in fields.items()}
    typed_rows = [
        {column: typed(row.get(column, MISSING.get(column)), kind) for column, kind in kinds.items()} for row in rows
    ]
    return pa.Table.from_pylist(typed_rows, schema=pa.schema(kinds.items()))


def connect(tables: dict[str, Rows]) -> duckdb.DuckDBPyConnection:
    assert set(tables) <= set(TABLES)
    db = duckdb.connect()
    for name in TABLES:
        db.register(name, input_table(name, tables.get(name, [])))
    create_persona_views(db)
    return db


def as_json(value: Value) -> Json:
    if isinstance(value, dict):
        return {name: as_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    return value.isoformat() if isinstance(value, date) else value


def is_same(found: Json, wanted: Json) -> bool:
    if isinstance(found, float) and not isinstance(wanted, list | dict | None):
        number = float(wanted)
        both_nan = math.isnan(found) and math.isnan(number)
        return both_nan or math.isclose(found, number, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(found, dict) and isinstance(wanted, dict):
        return list(found) == list(wanted) and all(is_same(found[name], wanted[name]) for name in found)
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(is_same, found, wanted))
    return type(found) is type(wanted) and found == wanted


def names_read(sql: str) -> set[str]:
    return set(re.findall(r"\b(?:from|join)\s+(\w+)", sql)) & {*TABLES, *VIEWS, *ASKED}


def grain_columns(query: Query) -> list[str]:
    return query.grain.removeprefix("one row per ").split(", ")


def folder_of(query: Query) -> Path:
    return HERE / "checks" / query.name if query.name in CHECKS else HERE / query.name


@pytest.mark.parametrize("path", CASES, ids=lambda path: str(path.parent.relative_to(HERE)))
def test_golden_case(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    name, is_check = path.parents[1].name, path.parents[2].name == "checks"
    with connect(case["tables"]) as db:
        if is_check:
            ds = case["params"].get("ds")
            found = db.sql(CHECKS[name].sql, params={"ds": ds and date.fromisoformat(ds)}).to_arrow_table()
        else:
            found = run_query(db, name, case["params"])
            for claim in QUERIES[name].holds.split("; "):
                broken = db.sql(f"from (select *, ({claim}) as holds from found) where holds is not true").fetchall()
                assert not broken, f"{claim} does not hold"
    rows = as_json(found.to_pylist())
    assert is_same(rows, case["rows"]), json.dumps(rows, indent=1)
    keys = [tuple(row[column] for column in grain_columns((CHECKS if is_check else QUERIES)[name])) for row in rows]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("query", [*QUERIES.values(), *CHECKS.values()], ids=lambda query: query.name)
def test_the_header_says_what_the_query_does(query: Query) -> None:
    with connect({}) as db:
        assert set(query.reads) == names_read(query.sql)
        assert {param.name for param in query.params} == set(re.findall(r"\$(\w+)", query.sql))
        params = {param.name: "x" if param.default is None else None for param in query.params}
        columns = db.sql(query.sql, params=params | ({"limit": 1} if "limit" in params else {})).columns
    assert set(grain_columns(query)) <= set(columns)
    assert len(set(columns)) == len(columns)
    assert "select *" not in query.sql
    assert query.row.endswith(".")


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_the_header_of_a_view_or_of_a_query_of_a_job_says_what_it_does(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = list(takewhile(lambda line: line.startswith("--"), lines))
    facts = re.sub(r"\n-- {3,}", " ", "\n".join(comments)).splitlines()
    header = dict(fact.removeprefix("-- ").split(":", maxsplit=1) for fact in facts)
    sql = "\n".join(lines[len(comments) :])
    assert [label for label in header if label not in ("Reads", "Params")] == [path.stem, "Grain", "Holds"]
    assert names_read(sql)
    assert set(re.findall(r"\$(\w+)", header.get("Params", ""))) == set(re.findall(r"\$(\w+)", sql))


@pytest.mark.parametrize("query", QUERIES.values(), ids=lambda query: query.name)
def test_every_query_has_a_golden_case_with_rows(query: Query) -> None:
    cases = [json.loads(path.read_text(encoding="utf-8")) for path in folder_of(query).glob("*/case.json")]
    assert any(case["rows"] for case in cases)


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.name)
def test_every_check_has_a_case_that_passes_and_one_that_offends(check: Query) -> None:
    cases = [json.loads(path.read_text(encoding="utf-8")) for path in folder_of(check).glob("*/case.json")]
    assert any(case["rows"] for case in cases)
    assert any(not case["rows"] and all(case["tables"].get(table) for table in check.reads[:1]) for case in cases)
    assert [(param.name, param.type, param.default) for param in check.params] == [("ds", "DATE", "null")]


def test_every_case_belongs_to_a_query() -> None:
    folders = {folder_of(query) for query in [*QUERIES.values(), *CHECKS.values()]}
    assert {path.parents[1] for path in CASES} <= folders
