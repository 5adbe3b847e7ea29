import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from one_night import encode_night, generate_night
from small_night import ITEMS, NIGHT, TASKS, item, task

from embedder.errors import InputMissing, UsageError
from llm_jobs.kinds import Kind
from llm_jobs.training.data import TrainConfig
from pipelines.answers.models import GenerateConfig
from pipelines.compare import CompareConfig, compare_night
from pipelines.encode import EncodeConfig
from pipelines.evaluate import evaluate_night, plan_evaluate
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.train import plan_train, train_job
from pipelines.training_data import PlugChoice, tell_of_labels, training_data

Fill = Callable[..., Warehouse]
Train = Callable[..., object]


@pytest.fixture
def answered(
    fill: Fill,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
    train_notes: Train,
    tmp_path: Path,
) -> tuple[Warehouse, Path]:
    """A night that was trained for, encoded and answered."""
    warehouse, plug = fill(ITEMS, TASKS), tmp_path / "plug"
    train_notes(warehouse, plug, epochs=2, batch_size=4)
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


def test_tasks_with_choices_of_their_own_are_scored_by_their_own(
    fill: Fill,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
    train_notes: Train,
    tmp_path: Path,
) -> None:
    tasks = [
        {**task(f"t{at}", ("ann", "bob")[at % 2], f"apples {at}", f"Label {at}"), "choices": [f"label {at}"]}
        for at in range(12)
    ]
    warehouse, plug = fill(ITEMS, tasks), tmp_path / "plug"
    train_notes(warehouse, plug)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    generate_night(warehouse, NIGHT, [plug], generate_config, kinds)
    found = values(evaluate_night(warehouse, NIGHT, kinds))
    assert {key: row["value"] for key, row in found.items()} == {
        ("own", "accuracy"): 1.0,
        ("own", "f1-occurring"): 1.0,
    }
    methods = CompareConfig(methods=("none", "label_mode"))
    compared = compare_night(warehouse, NIGHT, kinds, [plug], generate_config, methods).to_pylist()
    assert {row["arm"] for row in compared} == {"own", "none", "label_mode"}
    assert {row["metric"]: row["value"] for row in compared} == {"accuracy": 1.0, "f1-occurring": 1.0}


def test_a_kind_that_vanished_is_one_line_and_the_others_are_scored(
    fill: Fill, kinds: dict[str, Kind], caplog: pytest.LogCaptureFixture, answered: tuple[Warehouse, Path]
) -> None:
    warehouse, _ = answered
    left = {name: kind for name, kind in kinds.items() if name != "note"}
    with pytest.raises(UsageError, match=r"5 tasks are of kind 'note'.*add \[kinds.note\] to pplug.toml"):
        evaluate_night(warehouse, NIGHT, left)
    with connect(warehouse) as db:
        outputs = db.sql("from outputs").to_arrow_table().drop_columns(["ds"])
    headline = {**task("t9", "ann", "a fair", "A fair", kind="LaMP_4"), "choices": None}
    mixed = fill(ITEMS, [*TASKS, headline], name="mixed")
    rows = [row | {"kind": "LaMP_4", "task_id": "t9"} for row in outputs.to_pylist()[:1]]
    mixed.append("outputs", NIGHT, "r", outputs.from_pylist(rows, schema=outputs.schema))
    found = evaluate_night(mixed, NIGHT, left)
    assert set(found["kind"].to_pylist()) == {"LaMP_4"}
    assert "5 tasks are of kind 'note', which is not known: add [kinds.note] to pplug.toml" in caplog.text


def test_items_of_a_kind_that_vanished_are_passed_over_or_named(fill: Fill, kinds: dict[str, Kind]) -> None:
    left = {name: kind for name, kind in kinds.items() if name != "note"}
    choice = PlugChoice(None, NIGHT)
    with pytest.raises(UsageError, match=r"kind 'note' of the histories is not known: add \[kinds.note\]"):
        training_data(fill(ITEMS), choice, left)
    headline = {**item("ann", 99, "a fair", "A fair"), "kind": "LaMP_4"}
    assert training_data(fill([*ITEMS, headline], name="mixed"), choice, left).kind.name == "LaMP_4"


def test_labels_in_another_spelling_are_learned_and_counted(
    fill: Fill, kinds: dict[str, Kind], caplog: pytest.LogCaptureFixture
) -> None:
    spelled = [
        {**one, "output": f"{one['output'].upper() if at % 2 else one['output']} "} for at, one in enumerate(ITEMS)
    ]
    data = training_data(fill([*spelled, item("ann", 99, "salt", "salty")]), PlugChoice("note", NIGHT), kinds)
    assert data.labels == ("red", "blue", "green")
    assert [target.target for target in data.targets.found[:3]] == ["red", "red", "red"]
    tell_of_labels(data)
    assert f"{len(ITEMS)} outputs name a choice in another spelling" in caplog.text
    assert f"1 of {len(ITEMS) + 1} outputs are none of the 3 choices of kind note: correct them" in caplog.text
    assert "salty" not in caplog.text


@pytest.mark.parametrize("spell", [str, int, float, lambda at: f"{at}.0"])
def test_ratings_are_labels_however_they_are_written(
    fill: Fill, kinds: dict[str, Kind], spell: Callable[[int], object]
) -> None:
    ratings = [{**item("ann", at, f"film {at}", None), "output": spell(1 + at % 5)} for at in range(10)]
    rated = [{**one, "kind": "LaMP_3"} for one in ratings]
    scale = ["1", "2", "3", "4", "5"]
    queue = [{**task("t", "ann", "x", kind="LaMP_3"), "choices": scale, "reference": spell(5)}]
    warehouse = fill(rated, queue)
    data = training_data(warehouse, PlugChoice(None, NIGHT), kinds)
    assert list(data.labels) == scale
    assert {target.target for target in data.targets.found} == set(scale)
    with connect(warehouse) as db:
        assert db.sql("select reference from tasks").fetchall() == [("5",)]


def test_a_single_choice_is_said_to_teach_nothing(
    fill: Fill, train_notes: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse = fill(ITEMS, [{**one, "choices": ["red"]} for one in TASKS])
    train_notes(warehouse, tmp_path / "plug")
    assert "tasks of kind note have one choice only, so there is nothing to learn" in caplog.text
    assert "guessing" not in caplog.text


def test_an_item_too_long_for_the_llm_is_skipped_and_counted(
    fill: Fill,
    kinds: dict[str, Kind],
    generate_config: GenerateConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    warehouse = fill([*ITEMS, item("bob", 77, "a novel", "endless " * 2000, day=1)])
    train, choice = TrainConfig(epochs=1, batch_size=8, held_out=0.0), PlugChoice("note", NIGHT)
    plan = plan_train(warehouse, tmp_path / "plug", choice, generate_config, train, kinds)
    result = train_job(warehouse, tmp_path / "plug", choice, generate_config, train, kinds)
    assert (result.example_count, result.skipped_long_count, plan.row_count) == (len(ITEMS), 1, len(ITEMS))
    assert result.record.config["skipped_long_count"] == 1
    assert "1 of 20 examples are skipped (prompt_too_long)" in caplog.text
    assert "bob" not in caplog.text
    assert "endless" not in caplog.text
    assert "novel" not in caplog.text


def test_prompts_that_lost_their_middle_are_counted_and_told(
    fill: Fill,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    long = "endless " * 2000
    warehouse, plug = fill([*ITEMS, item("bob", 77, long, "red", day=1)], [*TASKS, task("t9", "ann", long)]), tmp_path
    train = TrainConfig(epochs=1, batch_size=8, held_out=0.0)
    result = train_job(warehouse, plug, PlugChoice("note", NIGHT), generate_config, train, kinds)
    assert (result.example_count, result.record.config["shortened_count"]) == (len(ITEMS), 0)  # a task's text
    named = PlugChoice("note", NIGHT, (NIGHT,))
    assert train_job(warehouse, plug, named, generate_config, train, kinds).record.config["shortened_count"] == 2
    assert "2 of 26 prompts lost their middle to fit the 512 tokens that the LLM reads" in caplog.text
    encode_night(warehouse, NIGHT, encode_config, kinds)
    generate_night(warehouse, NIGHT, [plug], generate_config, kinds)
    evaluate_night(warehouse, NIGHT, kinds, plugs=[plug], config=generate_config)
    compare_night(warehouse, NIGHT, kinds, [plug], generate_config, CompareConfig(methods=("none",)))
    told = "1 of 6 answers are to prompts that lost their middle to fit the LLM's context"  # only of the arm `none`
    assert [line for line in caplog.messages if "answers are to prompts" in line] == [told, told]
    with connect(warehouse) as db:
        configs = db.sql("select config from runs where job = 'evaluate' order by started_at").fetchall()
    assert [json.loads(config)["shortened_count"] for (config,) in configs] == [1, 1]
    assert "endless" not in caplog.text
