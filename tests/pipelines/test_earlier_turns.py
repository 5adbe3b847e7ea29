"""Plugs without a soft prompt: the LLM reads a user's nearest items as earlier turns of the conversation."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ingesting import ingest_all
from one_night import encode_night, generate_night, plan_generate
from small_night import NIGHT, item, task

from embedder.encoder import TextEncoder
from embedder.errors import InputMissing, PplugError, UsageError
from embedder.plug import PersonaPlug
from llm_jobs import FrozenLLM
from llm_jobs.kinds import Kind, load_kinds
from llm_jobs.prompts import Answer, Placement, Request
from llm_jobs.training.data import TrainConfig
from pipelines import Personalizer
from pipelines.answers.models import GenerateConfig
from pipelines.compact import compact_tables
from pipelines.compare import CompareConfig, compare_night
from pipelines.encode import EncodeConfig
from pipelines.evaluate import evaluate_night
from pipelines.explain import explain
from pipelines.folds import FoldConfig, compare_folds
from pipelines.forget import training_users
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.train import plan_train, train_job
from pipelines.training_data import PlugChoice

SAY = {"metric": "rouge", "prompt": "Say note: {text}", "query_marker": "note:", "max_new_tokens": 4}

ITEMS = [
    *(item("ann", at, f"apples and pears {at}", f"fruit {at}", day=30 - at) for at in range(6)),
    item("ann", 6, "a thing without an output", None, day=2),
    *(item("bob", at, f"boats on the sea {at}", f"ship {at}", day=20 - at) for at in range(3)),
    item("cid", 0, "grass", "green", day=3),
    item("dot", 0, "never said a thing", None, day=3),
]

TASKS = [
    {**task(f"t{at}", user, text, "fruit 3"), "choices": None, "input": f"Say note: {text}"}
    for at, (user, text) in enumerate(
        [
            ("ann", "apples again"),
            ("bob", "a boat"),
            ("cid", "grass"),
            ("dot", "what"),
            ("eve", "who"),
            ("ann", "pears"),
        ]
    )
]

Fill = Callable[..., Warehouse]


@pytest.fixture(scope="module")
def kinds() -> dict[str, Kind]:
    return load_kinds({"note": SAY})


@pytest.fixture(scope="module")
def config(generate_config: GenerateConfig) -> GenerateConfig:
    return generate_config


def trained(
    warehouse: Warehouse, folder: Path, config: GenerateConfig, kinds: dict[str, Kind], turns: int | None = 2
) -> Path:
    choice = PlugChoice("note", NIGHT, aggregation="turns", turns=turns)
    result = train_job(warehouse, folder, choice, config, TrainConfig(), kinds)
    assert (result.example_count, list(result.losses), result.rows) == (0, [], [])
    return folder


@pytest.fixture
def warehouse(fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig) -> Warehouse:
    made = fill(ITEMS, TASKS)
    encode_night(made, NIGHT, encode_config, kinds)
    return made


@pytest.fixture
def plug(warehouse: Warehouse, tmp_path: Path, config: GenerateConfig, kinds: dict[str, Kind]) -> Path:
    return trained(warehouse, tmp_path / "plug", config, kinds)


def outputs_of(warehouse: Warehouse) -> dict[str, dict[str, Any]]:
    with connect(warehouse) as db:
        rows = db.sql("select * exclude (run_id) from outputs").to_arrow_table().to_pylist()
    return {row["task_id"]: row for row in rows}


def wanted(
    items: list[dict[str, Any]], asked: dict[str, Any], config: GenerateConfig, count: int = 2
) -> tuple[Answer, list[str]]:
    """The answer to a task after the user's nearest items, made slowly, and which these are, the nearest first."""
    encoder, llm = TextEncoder.from_pretrained(config.encoder), FrozenLLM.from_pretrained(config.llm)
    own = [one for one in items if one["user_id"] == asked["user_id"]]
    query = asked["input"].removeprefix("Say note: ")
    scored: list[tuple[float, int]] = []
    for at, one in enumerate(own):
        if one["output"] and one["text"] != query:
            vector = encoder.encode([f"{one['output']}\n{one['text']}"])[0]
            scored.append((float(vector @ encoder.encode([query], is_query=True)[0]), at))
    nearest = [own[at] for _, at in sorted(scored, reverse=True)[:count]]
    turns = tuple((one["text"], one["output"]) for one in reversed(nearest))
    request = Request(query if turns else asked["input"], None, None, 4, turns=turns)
    [answer] = llm.answer([request], Placement.AFTER)
    assert isinstance(answer, Answer)
    return answer, [one["item_id"] for one in nearest]


@pytest.mark.beam
def test_each_task_is_answered_after_its_own_users_nearest_items(
    warehouse: Warehouse, plug: Path, config: GenerateConfig, kinds: dict[str, Kind]
) -> None:
    record = generate_night(warehouse, NIGHT, [plug], config, kinds)
    assert (record.rows_in, record.rows_out, record.rows_rejected) == (6, 6, 0)
    outputs = outputs_of(warehouse)
    for asked in TASKS:
        answer, nearest = wanted(ITEMS, asked, config)
        output = outputs[asked["task_id"]]
        assert (output["output"], output["prompt_tokens"]) == (answer.text, answer.prompt_tokens)
        assert output["score"] == pytest.approx(answer.score, abs=1e-4)
        assert {top["item_id"] for top in output["top_items"]} == {*nearest}
        assert all(top["weight"] == 1 / len(nearest) for top in output["top_items"])
        source = ("history", NIGHT) if nearest else ("default", None)
        assert (output["persona_source"], output["persona_ds"]) == source
    assert {outputs[name]["persona_source"] for name in ("t2", "t3", "t4")} == {"default"}


def test_only_what_the_night_of_the_personas_knows_and_still_is_there_is_read(
    warehouse: Warehouse, plug: Path, config: GenerateConfig, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    _, nearest = wanted(ITEMS, TASKS[0], config)
    later = NIGHT + timedelta(days=1)
    gone, edited = (next(one for one in ITEMS if one["item_id"] == name) for name in nearest)
    changes = [{**gone, "deleted": True}, {**edited, "text": "another text"}, item("ann", 9, "apples again", "new", -1)]
    ingest_all(warehouse, tmp_path, changes, [], later, kinds)
    generate_night(warehouse, NIGHT, [plug], config, kinds)
    left = [one for one in ITEMS if one not in (gone, edited)]
    found = outputs_of(warehouse)["t0"]
    shown = {top["item_id"] for top in found["top_items"]}
    assert shown
    assert not shown & {gone["item_id"], edited["item_id"], "ann-9"}
    assert shown <= {one["item_id"] for one in left}


def test_a_second_run_of_the_night_finds_it_done_and_other_turns_answer_it_anew(
    warehouse: Warehouse, plug: Path, config: GenerateConfig, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    generate_night(warehouse, NIGHT, [plug], config, kinds)
    before = outputs_of(warehouse)
    again = generate_night(warehouse, NIGHT, [plug], config, kinds)
    assert "published_by" in again.config
    assert outputs_of(warehouse) == before
    more = trained(warehouse, tmp_path / "more", config, kinds, turns=4)
    less = trained(warehouse, tmp_path / "less", config, kinds, turns=1)
    plans = [plan_generate(warehouse, NIGHT, [one], config, kinds).tokens for one in (less, more)]
    assert 0 < plans[0] < plans[1]
    generate_night(warehouse, NIGHT, [more], config, kinds)
    after = outputs_of(warehouse)
    assert after["t0"]["prompt_tokens"] > before["t0"]["prompt_tokens"]
    answer, _ = wanted(ITEMS, TASKS[0], config, 4)
    assert after["t0"]["output"] == answer.text


def test_a_night_is_done_anew_when_the_texts_it_was_answered_after_changed_and_only_then(
    warehouse: Warehouse, plug: Path, config: GenerateConfig, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    generate_night(warehouse, NIGHT, [plug], config, kinds)
    before = outputs_of(warehouse)
    later = [item("ann", 9, "apples again", "new", day=-1), item("zoe", 0, "no task", "none", day=-1)]
    ingest_all(warehouse, tmp_path, later, [], NIGHT + timedelta(days=1), kinds)
    compact_tables(warehouse)
    assert "published_by" in generate_night(warehouse, NIGHT, [plug], config, kinds).config
    gone = [{**one, "deleted": True} for one in ITEMS if one["user_id"] == "bob"]
    ingest_all(warehouse, tmp_path, gone, [], NIGHT, kinds)
    assert "published_by" not in generate_night(warehouse, NIGHT, [plug], config, kinds).config
    after = outputs_of(warehouse)
    assert [name for name in sorted(after) if after[name]["top_items"] != before[name]["top_items"]] == ["t1"]
    assert (after["t1"]["persona_source"], after["t1"]["top_items"]) == ("default", [])


def test_tasks_that_found_no_turn_are_counted_and_told(
    warehouse: Warehouse, plug: Path, config: GenerateConfig, kinds: dict[str, Kind], caplog: pytest.LogCaptureFixture
) -> None:
    record = generate_night(warehouse, NIGHT, [plug], config, kinds)
    assert record.config["without_turns_count"] == 2  # dot never said a thing, and cid's only item is the task itself
    assert [line for line in caplog.messages if "2 of 6 tasks were answered without an earlier turn" in line]


def test_a_warehouse_without_texts_is_refused(
    warehouse: Warehouse, plug: Path, config: GenerateConfig, kinds: dict[str, Kind]
) -> None:
    shutil.rmtree(Path(str(warehouse.root)) / "histories")
    told = f"holds no histories up to {NIGHT}.*pplug ingest histories FILE --ds {NIGHT}"
    with pytest.raises(InputMissing, match=told):
        generate_night(warehouse, NIGHT, [plug], config, kinds)


def test_controls_read_another_users_items_or_none(
    warehouse: Warehouse, plug: Path, config: GenerateConfig, kinds: dict[str, Kind]
) -> None:
    generate_night(warehouse, NIGHT, [plug], config, kinds)
    rows = evaluate_night(warehouse, NIGHT, kinds, plugs=[plug], config=config).to_pylist()
    assert {row["arm"] for row in rows} == {"own", "other", "default", "none"}
    value = {(row["arm"], row["metric"]): row["value"] for row in rows}
    assert value["default", "rouge-1"] == value["none", "rouge-1"]
    told = {row["arm"]: row for row in explain(warehouse, "t0", [plug], config, kinds).answers}
    own, _ = wanted(ITEMS, TASKS[0], config)
    assert told["own"]["answer"] == own.text
    assert told["other"]["score"] not in (told["own"]["score"], told["none"]["score"])
    assert told["default"]["score"] == pytest.approx(told["none"]["score"], abs=1e-5)


def test_on_folds_it_is_compared_without_training(
    fill: Fill, config: GenerateConfig, encode_config: EncodeConfig, kinds: dict[str, Kind]
) -> None:
    users = [f"u{at}" for at in range(10)]
    items = [item(user, at, f"{user} text {at}", f"title {at}", day=9 - at) for user in users for at in range(4)]
    warehouse = fill(items, [{**TASKS[0], "task_id": user, "user_id": user} for user in users], name="many")
    encode_night(warehouse, NIGHT, encode_config, kinds)
    folds = FoldConfig(2, 2, TrainConfig(epochs=1, batch_size=8), aggregation="turns")
    what = (warehouse, NIGHT, kinds, config)
    rows = compare_folds(*what, CompareConfig(), folds).to_pylist()
    of_all = [row for row in rows if row["slice"] == "all"]
    assert {row["arm"] for row in of_all} == {"own", "other", "default", "none", "reference"}
    assert {row["parameters"] for row in rows if row["arm"] == "own"} == {0}
    more = CompareConfig(methods=("plug_attention", "few_shot_4"))
    more_rows = compare_folds(*what, more, replace(folds, seeds=1)).to_pylist()
    value = {row["arm"]: row["value"] for row in more_rows if (row["slice"], row["metric"]) == ("all", "rouge-1")}
    assert value.keys() == {"own", "plug_attention", "few_shot_4"}
    assert value["own"] == value["few_shot_4"]  # as long as no vector stands for more than one item
    assert value["own"] == next(row["value"] for row in of_all if (row["arm"], row["metric"]) == ("own", "rouge-1"))


def test_with_plugs_that_are_there_it_is_what_others_are_compared_with(
    warehouse: Warehouse, plug: Path, config: GenerateConfig, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    mean = PlugChoice("note", NIGHT, aggregation="mean")
    train_job(warehouse, tmp_path / "mean", mean, config, TrainConfig(epochs=1, batch_size=8, held_out=0.0), kinds)
    methods = CompareConfig(methods=("other", "plug_mean"))
    rows = compare_night(warehouse, NIGHT, kinds, [plug, tmp_path / "mean"], config, methods).to_pylist()
    of_all = {row["arm"]: row for row in rows if (row["slice"], row["metric"]) == ("all", "rouge-1")}
    assert of_all.keys() == {"own", "other", "plug_mean"}
    assert of_all["own"]["user_bytes"] > of_all["plug_mean"]["user_bytes"]
    assert of_all["plug_mean"]["compared_with"] == "own"


def test_nobody_was_in_its_training_and_a_dry_run_says_that_there_is_none(
    warehouse: Warehouse, plug: Path, config: GenerateConfig, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    assert not training_users(warehouse, plug).hashes
    choice = PlugChoice("note", NIGHT, aggregation="turns")
    assert plan_train(warehouse, tmp_path / "x", choice, config, TrainConfig(), kinds).tokens == 0


def test_a_closed_kind_is_refused(
    fill: Fill, config: GenerateConfig, encode_config: EncodeConfig, tmp_path: Path
) -> None:
    closed = load_kinds({"note": {**SAY, "metric": "accuracy", "choices": ["red", "blue"]}})
    labels = [{**one, "output": ("red", "blue")[at % 2]} for at, one in enumerate(ITEMS)]
    for name, items in {"closed": labels, "free so far": ITEMS}.items():
        with pytest.raises(UsageError, match="--aggregation turns is for free answers, and kind note is closed"):
            trained(fill(items, [], name=name), tmp_path / name, config, closed)


def test_methods_of_a_plug_that_learns_are_refused_beside_it(
    warehouse: Warehouse, config: GenerateConfig, kinds: dict[str, Kind]
) -> None:
    folds = FoldConfig(2, 1, aggregation="turns")
    with pytest.raises(UsageError, match="--methods shuffled is of a plug that learns"):
        compare_folds(warehouse, NIGHT, kinds, config, CompareConfig(methods=("shuffled",)), folds)


def test_a_number_of_turns_for_another_plug_is_refused() -> None:
    with pytest.raises(UsageError, match="--turns 3 goes with --aggregation turns only"):
        PlugChoice("note", NIGHT, turns=3)


@pytest.mark.parametrize("turns", [0, -1, 33, True, "4"])
def test_a_number_of_turns_that_cannot_be_is_refused(turns: Any, plug: Path) -> None:
    config = PersonaPlug.from_pretrained(plug).config
    with pytest.raises(PplugError, match="turns"):
        replace(config, turns=turns)


def test_a_personalizer_answers_as_the_night(
    warehouse: Warehouse, config: GenerateConfig, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    names: Any = {"encoder": config.encoder, "llm": config.llm, "dtype": "float32", "llm_dtype": "float32"}
    model = Personalizer.fit(pd.DataFrame(ITEMS), kind="note", kinds={"note": SAY}, aggregation="turns", **names)
    model.save(tmp_path / "saved")
    generate_night(warehouse, NIGHT, [tmp_path / "saved"], config, kinds)
    outputs = outputs_of(warehouse)
    for row in model.answer(pd.DataFrame(ITEMS), pd.DataFrame(TASKS)).to_dict("records"):
        theirs = outputs[row["task_id"]]
        assert (row["answer"], row["persona_source"]) == (theirs["output"], theirs["persona_source"])
        assert [one["item_id"] for one in row["why"]] == [one["item_id"] for one in theirs["top_items"]]
    rows = model.evaluate(pd.DataFrame(ITEMS), pd.DataFrame(TASKS)).to_dict("records")
    assert {row["arm"] for row in rows} == {"own", "other", "default", "none"}


def test_a_merged_history_is_read_by_its_most_typical_items(
    fill: Fill, config: GenerateConfig, encode_config: EncodeConfig, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    many = [item("ann", at, f"apples and pears {at % 7} {at}", f"fruit {at}", day=60 - at) for at in range(40)]
    warehouse = fill(many, TASKS[:1], name="many")
    encode_night(warehouse, NIGHT, replace(encode_config, max_vectors=8), kinds)
    generate_night(warehouse, NIGHT, [trained(warehouse, tmp_path / "p", config, kinds, 4)], config, kinds)
    tops = outputs_of(warehouse)["t0"]["top_items"]
    with connect(warehouse) as db:
        typical = {one["item_id"] for (items,) in db.sql("select items from personas").fetchall() for one in items}
    assert 4 <= len(typical) <= 8
    assert {top["item_id"] for top in tops} <= typical
    assert np.allclose([top["weight"] for top in tops], 0.25)
