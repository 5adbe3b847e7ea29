"""A Personalizer says of DataFrames what the nights say of the same rows."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from frames_of import FRAMES, rows_of
from one_night import encode_night, generate_night
from small_night import ITEMS, NIGHT, NOTE, TASKS, item

from embedder.errors import InputMissing, PplugError, UsageError
from llm_jobs.kinds import Kind
from pipelines import Personalizer
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig
from pipelines.library.personas import personas_of
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

SAY = {"metric": "rouge", "prompt": "Say note: {text}", "query_marker": "note:", "max_new_tokens": 4}
"""The kind of the small night with free answers."""

COLUMNS = ["task_id", "user_id", "answer", "score", "why", "persona_source", "finish_reason"]


@pytest.fixture(scope="module")
def names(encoder_folder: Path, llm_folder: Path) -> dict[str, Any]:
    return {"encoder": str(encoder_folder), "llm": str(llm_folder), "dtype": "float32", "llm_dtype": "float32"}


@pytest.fixture(scope="module")
def closed(names: dict[str, Any]) -> Personalizer:
    return Personalizer.fit(pd.DataFrame(ITEMS), kind="note", kinds={"note": NOTE}, **names)


@pytest.fixture(scope="module")
def free(names: dict[str, Any]) -> Personalizer:
    return Personalizer.fit(pd.DataFrame(ITEMS), kind="note", kinds={"note": SAY}, limit=6, epochs=1, **names)


def frame(rows: list[dict[str, Any]], *names: str) -> pd.DataFrame:
    return pd.DataFrame(rows)[list(names)]


@pytest.mark.parametrize("answers", ["closed", "free"])
def test_the_answers_are_those_of_the_night(
    answers: str,
    request: pytest.FixtureRequest,
    fill: Callable[..., Warehouse],
    kinds: dict[str, Kind],
    tmp_path: Path,
    generate_config: GenerateConfig,
    encode_config: EncodeConfig,
) -> None:
    model: Personalizer = request.getfixturevalue(answers)
    tasks = [{**row, "choices": None} for row in TASKS] if answers == "free" else TASKS
    warehouse, plug = fill(ITEMS, tasks), tmp_path / "saved"
    model.save(plug)
    encode_night(warehouse, NIGHT, EncodeConfig(encoder=encode_config.encoder, dtype="float32"), kinds)
    generate_night(warehouse, NIGHT, [plug], generate_config, model.kinds)
    with connect(warehouse) as db:
        night = db.sql("select * from outputs order by task_id").to_arrow_table().to_pylist()
    mine = rows_of(model.answer(pa.Table.from_pylist(ITEMS), pa.Table.from_pylist(tasks)))
    assert len(mine) == len(night) == len(TASKS)
    for ours, theirs in zip(mine, night, strict=True):
        assert (ours["task_id"], ours["answer"]) == (theirs["task_id"], theirs["output"])
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert (ours["persona_source"], ours["finish_reason"]) == (theirs["persona_source"], theirs["finish_reason"])
        assert [one["item_id"] for one in ours["why"]] == [one["item_id"] for one in theirs["top_items"]]
        for why, top in zip(ours["why"], theirs["top_items"], strict=True):
            assert why["weight"] == pytest.approx(top["weight"], abs=1e-5)


def test_a_merged_history_is_the_persona_of_the_night(
    fill: Callable[..., Warehouse], kinds: dict[str, Kind], encode_config: EncodeConfig, closed: Personalizer
) -> None:
    from pipelines.answers.queue import queued_tasks
    from pipelines.personas.nights import newest_nights, nights_of

    items = [item("ann", at, f"apples and pears {at}", ("red", "blue")[at % 2], day=30 - at) for at in range(20)]
    warehouse = fill(items, TASKS)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    with connect(warehouse) as db:
        nights = newest_nights(nights_of(db), NIGHT, closed.models.encoder.sha256)
        theirs = next(task for task in queued_tasks(db, NIGHT, nights.params, ("ann", "ann"), 32))
    rows = [{**row, "posted_at": datetime.fromisoformat(row["posted_at"])} for row in items]
    ours = personas_of(rows, {"ann"}, kinds, closed.models.encoder, encode_config.max_vectors)["ann"]
    assert len(ours.history.vectors) < len(items) == ours.item_count
    assert ours.history.vectors == pytest.approx(theirs.history.vectors, abs=1e-5)
    assert (ours.history.counts == theirs.history.counts).all()
    assert ours.history.past.names == theirs.history.past.names
    assert ours.history.past.shares == pytest.approx(theirs.history.past.shares, abs=1e-5)
    assert [one["item_id"] for one in ours.items] == [one["item_id"] for one in theirs.persona.items]


@pytest.mark.parametrize("library", FRAMES)
def test_the_same_kind_of_frame_comes_back(library: str, closed: Personalizer) -> None:
    make = FRAMES[library]
    histories, tasks = make(ITEMS), make(TASKS)
    found = closed.answer(histories, tasks)
    assert type(found) is type(tasks)
    told = rows_of(found)
    assert list(told[0]) == COLUMNS
    assert [row["task_id"] for row in told] == [row["task_id"] for row in TASKS]
    assert told == rows_of(closed.answer(pa.Table.from_pylist(ITEMS), pa.Table.from_pylist(TASKS)))


def test_times_may_be_times_and_a_polars_frame_lazy(closed: Personalizer) -> None:
    timed = [{**row, "posted_at": datetime.fromisoformat(row["posted_at"])} for row in ITEMS]
    texts = rows_of(closed.answer(pd.DataFrame(ITEMS), pd.DataFrame(TASKS)))
    assert rows_of(closed.answer(pl.LazyFrame(timed), pl.DataFrame(TASKS))) == texts
    assert rows_of(closed.answer(pd.DataFrame(timed), pd.DataFrame(TASKS))) == texts


def test_a_task_is_a_user_and_a_text(closed: Personalizer) -> None:
    told = rows_of(closed.answer(pd.DataFrame(ITEMS), pd.DataFrame({"user_id": ["ann", "nobody"], "text": ["a", "b"]})))
    assert [(row["task_id"], row["user_id"], row["persona_source"]) for row in told] == [
        ("0", "ann", "history"),
        ("1", "nobody", "default"),
    ]
    assert all(row["answer"] in NOTE["choices"] for row in told)
    assert told[0]["why"][0]["text"].startswith("apples")
    assert told[1]["why"] == []


def test_columns_have_other_names(closed: Personalizer, names: dict[str, Any]) -> None:
    renamed = {"user_id": "author", "text": "body", "posted_at": "published", "output": "tag"}
    histories = pd.DataFrame(ITEMS).drop(columns=["item_id", "kind"]).rename(columns=renamed)
    tasks = pd.DataFrame({"author": ["ann", "bob"], "body": ["apples again", "a boat"]})
    model = Personalizer.fit(histories, kind="note", kinds={"note": NOTE}, columns=renamed, **names)
    plain = pd.DataFrame({"user_id": ["ann", "bob"], "text": ["apples again", "a boat"]})
    mine, theirs = rows_of(model.answer(histories, tasks)), rows_of(closed.answer(pd.DataFrame(ITEMS), plain))
    assert [(row["user_id"], row["answer"]) for row in mine] == [(row["user_id"], row["answer"]) for row in theirs]


def test_a_saved_one_answers_as_before(closed: Personalizer, tmp_path: Path) -> None:
    closed.save(tmp_path / "plug")
    loaded = Personalizer.load(tmp_path / "plug")
    assert rows_of(loaded.answer(pd.DataFrame(ITEMS), pd.DataFrame(TASKS))) == rows_of(
        closed.answer(pd.DataFrame(ITEMS), pd.DataFrame(TASKS))
    )
    assert repr(loaded) == repr(closed)
    assert "kind='note', examples=19, users=3" in repr(loaded)


def test_a_plug_of_the_command_is_loaded(plug: Path, names: dict[str, Any]) -> None:
    loaded = Personalizer.load(plug, kinds={"note": NOTE}, **names)
    assert len(loaded.answer(pd.DataFrame(ITEMS), pd.DataFrame(TASKS))) == len(TASKS)


def test_a_damaged_folder_says_so(plug: Path, names: dict[str, Any], tmp_path: Path) -> None:
    (plug / "personalizer.json").write_text('{"max_vectors": 8', encoding="utf8")
    with pytest.raises(PplugError, match=r"personalizer.json is damaged .*: save the Personalizer again"):
        Personalizer.load(plug)
    (plug / "personalizer.json").write_text('{"models": {}, "max_vectors": 8, "format": 9}', encoding="utf8")
    with pytest.raises(PplugError, match="format 9, this pplug reads 1"):
        Personalizer.load(plug)
    with pytest.raises(InputMissing, match="holds no plug"):
        Personalizer.load(tmp_path / "nothing", **names)


def test_evaluate_says_whether_the_persona_helps(closed: Personalizer) -> None:
    found = closed.evaluate(pd.DataFrame(ITEMS), pd.DataFrame(TASKS))
    assert isinstance(found, pd.DataFrame)
    assert set(found["arm"]) == {"own", "other", "default", "none"}
    assert set(found["metric"]) == {"accuracy", "f1"}
    own = found[(found["arm"] == "own") & (found["metric"] == "accuracy")].iloc[0]
    answers = closed.answer(pd.DataFrame(ITEMS), pd.DataFrame(TASKS))
    right = [
        ours == task["reference"] for ours, task in zip(answers["answer"], TASKS, strict=True) if task["reference"]
    ]
    assert own["value"] == pytest.approx(sum(right) / len(right))
    assert own["task_count"] == len(right) == 5
    assert own["low"] <= own["value"] <= own["high"]
    default = found[(found["arm"] == "default") & (found["metric"] == "accuracy")].iloc[0]
    assert default["difference"] == pytest.approx(default["value"] - own["value"])
    assert set(closed.evaluate(pd.DataFrame(ITEMS), pd.DataFrame(TASKS), compared=["none"])["arm"]) == {"own", "none"}


def test_a_limit_takes_examples_of_all_users_alike(free: Personalizer, names: dict[str, Any]) -> None:
    assert free.training["example_count"] == 6
    again = Personalizer.fit(pl.DataFrame(ITEMS), kind="note", kinds={"note": SAY}, limit=6, epochs=1, **names)
    assert again.training == free.training


def test_of_two_rows_of_an_item_the_last_counts(closed: Personalizer) -> None:
    old, new = dict(ITEMS[0], text="something else"), ITEMS[0]
    doubled = pd.DataFrame([old, *ITEMS[1:], new])
    assert rows_of(closed.answer(doubled, pd.DataFrame(TASKS))) == rows_of(
        closed.answer(pd.DataFrame(ITEMS), pd.DataFrame(TASKS))
    )


def test_no_tasks_have_no_answers(closed: Personalizer) -> None:
    assert len(closed.answer(pd.DataFrame(ITEMS), pd.DataFrame(TASKS)[:0])) == 0


# One clear line


@pytest.mark.parametrize(
    ("histories", "told"),
    [
        ([1, 2], r"histories must be a DataFrame of pandas or Polars, or a table of Arrow, not a list"),
        (
            frame(ITEMS, "user_id", "text", "output"),
            r"histories have no column posted_at; found: output, text, user_id",
        ),
        (
            frame(ITEMS, "user_id", "text", "posted_at").rename(columns={"text": "body", "posted_at": "date"}),
            r"histories have no column posted_at, text; .*columns=\{'posted_at': 'date', 'text': 'body'\}",
        ),
        (
            pd.DataFrame([*ITEMS, dict(ITEMS[0], text=" "), dict(ITEMS[0], posted_at="yesterday")]),
            r"^2 of 21 rows of histories cannot be used \(.*empty_text: 1.*; first row 19, counted from 0\): mend",
        ),
        (frame(ITEMS, "user_id", "text", "posted_at"), r"no item of kind note has an output to learn from"),
        (pd.DataFrame([dict(ITEMS[0], kind="nothing")]), r"unknown_kind: 1"),
    ],
)
def test_bad_histories_give_one_clear_line(histories: Any, told: str, names: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        Personalizer.fit(histories, kind="note", kinds={"note": NOTE}, **names)
    assert "\n" not in str(caught.value)
    assert "yesterday" not in str(caught.value)


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        (frame(TASKS, "task_id"), r"tasks have no column user_id, input \(or text\); found: task_id"),
        (pd.DataFrame([TASKS[0], TASKS[0]]), r"1 tasks have the task_id of another"),
        (pd.DataFrame([dict(TASKS[0], kind="headline")]), r"some tasks are of kind LaMP_4, not note"),
    ],
)
def test_bad_tasks_give_one_clear_line(tasks: Any, told: str, closed: Personalizer) -> None:
    with pytest.raises(UsageError, match=told):
        closed.answer(pd.DataFrame(ITEMS), tasks)


def test_what_cannot_be_asked_for_is_named(closed: Personalizer, names: dict[str, Any]) -> None:
    histories, tasks = pd.DataFrame(ITEMS), frame(TASKS, "user_id", "input")
    with pytest.raises(UsageError, match=r"kind 'sonnet' is not known: use one of citation, movie_tag"):
        Personalizer.fit(histories, kind="sonnet", **names)
    with pytest.raises(UsageError, match="limit = 0"):
        Personalizer.fit(histories, kind="note", kinds={"note": NOTE}, limit=0, **names)
    with pytest.raises(UsageError, match="columns names 'usr'"):
        closed.answer(histories, tasks, columns={"usr": "author"})
    with pytest.raises(UsageError, match="no task has a reference"):
        closed.evaluate(histories, tasks)
    with pytest.raises(UsageError, match="nothing called 'retrieval' to compare with"):
        closed.evaluate(histories, tasks, compared=["retrieval"])
    with pytest.raises(UsageError, match="learns from tasks: pass fit"):
        Personalizer.fit(histories.assign(kind="citation"), kind="citation", **names)


def test_a_kind_may_learn_from_tasks(names: dict[str, Any]) -> None:
    asked = {**NOTE, "prompt": None}
    histories, tasks = pd.DataFrame(ITEMS), pd.DataFrame(TASKS)
    model = Personalizer.fit(histories, kind="note", kinds={"note": asked}, tasks=tasks, epochs=1, **names)
    assert model.training["example_count"] == 5
    assert len(model.answer(histories, tasks)) == len(TASKS)


def test_the_time_of_a_task_is_now_unless_given(closed: Personalizer) -> None:
    from pipelines.library.rows import read_tasks

    before = datetime.now(UTC)
    (row,) = read_tasks(pd.DataFrame({"user_id": [7], "text": ["a"]}), closed.kind, closed.kinds, {})
    assert before <= row["queued_at"] <= datetime.now(UTC)
    assert row["user_id"] == "7"


def test_what_is_saved_says_what_it_is(closed: Personalizer, tmp_path: Path) -> None:
    closed.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("plug.safetensors", "config.json", "README.md", "training.json", "personalizer.json")
    }
    assert json.loads((tmp_path / "personalizer.json").read_text())["models"]["dtype"] == "float32"
