import json
from pathlib import Path

import pytest

from embedder.errors import UsageError
from llm_jobs.training.data import TrainConfig
from pipelines.demo import ARMS, closing_table, plan_demo, run_demo
from pipelines.nights.runs import no_progress
from pipelines.sample import SampleConfig, write_sample
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

SMALL = SampleConfig(users=6, users_without_history=1, news=3, headlines=1, tasks=2)


def test_the_plan_counts_what_the_sample_holds(tmp_path: Path) -> None:
    plan = plan_demo(SMALL)
    histories, tasks = (path.read_text(encoding="utf8").splitlines() for path in write_sample(tmp_path, SMALL))
    assert (plan["item_count"], plan["task_count"]) == (len(histories), len(tasks))
    assert plan["user_count"] == len({json.loads(line)["user_id"] for line in tasks})


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work", encoding="utf8")
    with pytest.raises(UsageError, match="pplug demo DIR"):
        run_demo(tmp_path, no_progress)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_closing_table_has_the_arms_in_order() -> None:
    found = [
        {"arm": arm, "metric": metric, "value": at / 10, "low": 0.0, "high": 1.0, "kind": "LaMP_2N"}
        for at, arm in enumerate(reversed(ARMS))
        for metric in ("f1", "accuracy")
    ]
    table = closing_table(found)
    assert [row["arm"] for row in table] == list(ARMS)
    assert [row["value"] for row in table] == [0.3, 0.2, 0.1, 0.0]


def test_a_small_demo_runs_every_step_and_again(tmp_path: Path) -> None:
    """The real models; `make demo` runs the whole sample."""
    for _ in range(2):
        looked_at, arms = run_demo(tmp_path, no_progress, SMALL, TrainConfig(epochs=1, batch_size=8))
        assert [row["arm"] for row in arms] == list(ARMS)
        assert looked_at
        assert {row["task_id"] for row in looked_at} == {"user-01-task-1"}
    assert "Night of" in (tmp_path / "report.html").read_text(encoding="utf8")
    with connect(Warehouse(tmp_path / "warehouse")) as db:
        counts = db.sql("select (select count(*) from outputs), (select count(*) from personas)").fetchall()
    assert counts == [(SMALL.users * SMALL.tasks, SMALL.users - SMALL.users_without_history)]
