from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_night import ITEMS, NIGHT, TASKS

from embedder.errors import InputMissing
from llm_jobs.kinds import Kind
from llm_jobs.training.data import TrainConfig
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig, encode_night
from pipelines.evaluate import evaluate_night, plan_evaluate
from pipelines.generate import generate_night
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.train import PlugChoice, plan_train, train_job

Fill = Callable[..., Warehouse]


@pytest.fixture
def answered(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig, tmp_path: Path
) -> tuple[Warehouse, Path]:
    """A night that was trained for, encoded and answered."""
    warehouse, plug = fill(ITEMS, TASKS), tmp_path / "plug"
    train = TrainConfig(epochs=2, batch_size=4, held_out=0.0)
    train_job(warehouse, plug, PlugChoice("note", NIGHT), generate_config, train, kinds)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    generate_night(warehouse, NIGHT, [plug], generate_config, kinds)
    return warehouse, plug


def values(table: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["arm"], row["metric"]): row for row in table.to_pylist()}


def test_own_accuracy_is_the_share_of_equal_answers_and_controls_stand_beside_it(
    answered: tuple[Warehouse, Path], kinds: dict[str, Kind], generate_config: GenerateConfig
) -> None:
    warehouse, plug = answered
    with connect(warehouse) as db:
        before = db.sql("from outputs order by task_id").fetchall()
        correct, scored = db.sql(
            "select count(*) filter (output = reference), count(*) from tasks join outputs using (task_id) "
            "where reference is not null"
        ).fetchall()[0]
    found = values(evaluate_night(warehouse, NIGHT, kinds, plugs=[plug], config=generate_config))
    assert {arm for arm, _ in found} == {"own", "other", "default", "none"}
    assert found["own", "accuracy"]["value"] == pytest.approx(correct / scored)
    for row in found.values():
        assert row["low"] <= row["value"] <= row["high"]
        assert row["task_count"] == scored == 5
    with connect(warehouse) as db:
        assert db.sql("from outputs order by task_id").fetchall() == before
        assert db.sql("select count(*) from evaluations").fetchall() == [(len(found),)]
        assert db.sql("select job, status from runs order by started_at").fetchall()[-1] == ("evaluate", "done")


def test_without_outputs_or_references_it_says_what_to_run(
    fill: Fill, kinds: dict[str, Kind], generate_config: GenerateConfig
) -> None:
    warehouse = fill(ITEMS, TASKS)
    with pytest.raises(InputMissing, match="pplug generate"):
        evaluate_night(warehouse, NIGHT, kinds)
    with pytest.raises(InputMissing, match="pplug ingest tasks"):
        evaluate_night(fill(ITEMS, [], name="none"), NIGHT, kinds)
    with pytest.raises(InputMissing, match="pplug generate"):
        plan_evaluate(warehouse, NIGHT, kinds, config=generate_config)


def test_training_uses_references_only_of_the_nights_that_are_named(
    fill: Fill, kinds: dict[str, Kind], generate_config: GenerateConfig, tmp_path: Path
) -> None:
    leaky = [{**ITEMS[0], "item_id": "leak", "text": "apples again"}]
    warehouse = fill([*ITEMS, *leaky], TASKS)
    train = TrainConfig(epochs=1, held_out=0.0)
    before = warehouse.versions()
    plan = plan_train(warehouse, tmp_path / "plug", PlugChoice("note", NIGHT), generate_config, train, kinds)
    assert warehouse.versions() == before
    assert plan.row_count == len(ITEMS)
    unnamed = train_job(warehouse, tmp_path / "a", PlugChoice("note", NIGHT), generate_config, train, kinds)
    assert (unnamed.example_count, unnamed.skipped_leak_count) == (len(ITEMS), 1)
    named = train_job(warehouse, tmp_path / "b", PlugChoice("note", NIGHT, (NIGHT,)), generate_config, train, kinds)
    assert (named.example_count, named.skipped_leak_count) == (len(ITEMS) + 1 + 5, 0)
    assert plan.tokens == unnamed.record.tokens


def test_a_night_that_is_named_but_missing_says_what_to_run(
    fill: Fill, kinds: dict[str, Kind], generate_config: GenerateConfig, tmp_path: Path
) -> None:
    with pytest.raises(InputMissing, match="no tasks of kind note for 2026-11-02"):
        train_job(fill(ITEMS), tmp_path, PlugChoice(None, NIGHT, (NIGHT,)), generate_config, TrainConfig(), kinds)
