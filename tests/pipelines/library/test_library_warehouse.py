"""The warehouse from Python: a frame in, a night, and any question to its tables."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from frames_of import FRAMES
from small_night import ITEMS, NIGHT, NOTE, TASKS

from embedder.errors import UsageError
from pipelines import Warehouse
from pipelines.nights.steps import StepsFailed
from pipelines.tables import warehouse as tables
from pipelines.tables.views import connect

KINDS = {"note": NOTE}


@pytest.fixture(scope="module")
def names(encoder_folder: Path, llm_folder: Path) -> dict[str, Any]:
    return {"encoder": str(encoder_folder), "llm": str(llm_folder), "dtype": "float32", "llm_dtype": "float32"}


def filled(folder: Path) -> Warehouse:
    warehouse = Warehouse(folder)
    for table, rows in (("histories", ITEMS), ("tasks", TASKS)):
        warehouse.ingest(table, pd.DataFrame(rows), NIGHT, kinds=KINDS)  # pyright: ignore[reportArgumentType]
    return warehouse


def test_a_night_runs_and_shows_its_personas_and_answers(tmp_path: Path, plug: Path, names: dict[str, Any]) -> None:
    warehouse = filled(tmp_path / "warehouse")
    steps = warehouse.run_night(f"{NIGHT}", [plug], kinds=KINDS, **names)
    assert [(step.job, step.status) for step in steps] == [("encode", "done"), ("generate", "done"), ("check", "done")]
    answers = warehouse.sql("select task_id from outputs where ds = $ds order by task_id", {"ds": NIGHT})
    assert answers.fetchall() == [(task["task_id"],) for task in TASKS]
    personas = warehouse.personas(NIGHT).df()
    assert sorted(personas["user_id"]) == ["ann", "bob", "cid"]
    newest, named = (
        found.order("user_id").fetchall() for found in (warehouse.personas(), warehouse.personas(f"{NIGHT}"))
    )
    assert newest == named
    assert warehouse.personas(date(2026, 11, 1)).fetchall() == []
    made_by = warehouse.sql("select distinct run_id from outputs").fetchall()
    warehouse.run_night(NIGHT, [plug], kinds=KINDS, **names)
    assert warehouse.sql("select distinct run_id from outputs").fetchall() == made_by, "what is done stays done"


def test_it_is_the_warehouse_of_the_jobs(tmp_path: Path) -> None:
    warehouse = filled(tmp_path)
    assert isinstance(warehouse, tables.Warehouse)
    with connect(warehouse) as db:
        assert db.sql("select count(*) from histories").fetchall() == [(len(ITEMS),)]


def test_a_relation_outlives_its_warehouse_and_shows_what_it_saw(tmp_path: Path) -> None:
    relation = filled(tmp_path).sql("select user_id, text from histories")
    assert isinstance(relation, duckdb.DuckDBPyRelation)
    Warehouse(tmp_path).ingest("histories", pd.DataFrame([dict(ITEMS[0], deleted=True)]), NIGHT, kinds=KINDS)
    assert relation.filter("user_id = 'cid'").fetchall() == [("cid", "grass")]
    assert len(relation.fetchall()) == len(ITEMS)
    assert Warehouse(tmp_path).sql("select count(*) from histories").fetchall() == [(len(ITEMS) - 1,)]


@pytest.mark.parametrize("library", FRAMES)
def test_frames_of_each_library_are_ingested(library: str, tmp_path: Path) -> None:
    renamed = [{"author": row["user_id"], "text": row["text"], "day": row["posted_at"][:10]} for row in ITEMS]
    columns = {"user_id": "author", "posted_at": "day"}
    found = Warehouse(tmp_path).ingest(
        "histories", FRAMES[library](renamed), "2026-11-02", kind="note", columns=columns, kinds=KINDS
    )
    assert (found.rows_in, found.rows_rejected, found.changed) == (len(ITEMS), 0, len(ITEMS))


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda warehouse: warehouse.sql("select nothing from outputs"), r'"nothing" not found.*correct the query'),
        (lambda warehouse: warehouse.sql("selec 1"), r"correct the query"),
        (
            lambda warehouse: warehouse.sql("create table t (a int)"),
            r"only reads, saw a statement of type create: correct it",
        ),
        (lambda warehouse: warehouse.sql("select $a", {"b": 1}), r"correct the query"),
        (lambda warehouse: warehouse.personas("yesterday"), r"ds = 'yesterday' is no day: write it like 2026-11-01"),
        (lambda warehouse: warehouse.ingest("tasks", 5, NIGHT), r"tasks must be a DataFrame .*, not a int"),
    ],
)
def test_a_question_that_cannot_be_answered_gives_one_line(
    ask: Callable[[Warehouse], object], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        ask(Warehouse(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_night_without_tasks_says_what_is_missing(tmp_path: Path, plug: Path, names: dict[str, Any]) -> None:
    with pytest.raises(StepsFailed, match="no tasks for 2026-11-03"):
        filled(tmp_path).run_night("2026-11-03", [plug], kinds=KINDS, **names)
