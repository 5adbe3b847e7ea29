import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Pplug
from one_night import generate_night
from small_night import NIGHT, NOTE

from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig
from pipelines.command.answered import said
from pipelines.tables.warehouse import Warehouse
from pipelines.user import themes


@pytest.fixture
def answered(
    night: Warehouse, plug: Path, kinds: dict[str, Kind], generate_config: GenerateConfig, tmp_path: Path
) -> str:
    generate_night(night, NIGHT, [plug], generate_config, kinds)
    lines = [f"{name} = {json.dumps(value)}" for name, value in NOTE.items()]
    (tmp_path / "pplug.toml").write_text("[kinds.note]\n" + "\n".join(lines), encoding="utf8")
    return str(night.root)


def test_an_answer_is_explained_by_items_and_by_what_others_would_get(
    tiny_models: Pplug, answered: str, plug: Path
) -> None:
    told = tiny_models("explain", "t1", "--plug", str(plug), "--warehouse", answered, "--dtype", "float32", "--json")
    assert told.code == 0, told.err
    task, *rest = told.rows
    answers = {row["arm"]: row for row in rest if "arm" in row}
    items = [row for row in rest if "weight" in row]
    assert (task["user_id"], task["reference"]) == ("ann", "red")
    assert set(answers) == {"own", "other", "default", "none"}
    assert answers["own"]["answer"] == task["answer"]
    assert answers["own"]["probability"] == pytest.approx(task["probability"], rel=1e-4)
    assert items[0]["text"].startswith("apples")
    without = tiny_models("explain", "t1", "--warehouse", answered, "--json")
    assert [row.get("arm") for row in without.rows] == [None] * len(without.rows)
    missing = tiny_models("explain", "no", "--warehouse", answered)
    assert (missing.code, "there is no task 'no'" in missing.err) == (4, True)


def test_a_user_is_shown_by_themes_and_every_row_can_be_exported(pplug: Pplug, answered: str, tmp_path: Path) -> None:
    told = pplug("user", "bob", "--export", "bob.json", "--warehouse", answered, "--json")
    assert told.code == 0, told.err
    found = [row for row in told.rows if "typical texts" in row]
    assert sum(row["items"] for row in found) == 6
    assert sum(row["share"] for row in found) == pytest.approx(1)
    assert "boats" in found[0]["typical texts"]
    assert [row for row in told.rows if "night" in row] == [
        {"night": f"{NIGHT}", "items": 6, "cosine to the one before": None}
    ]
    assert {row["task_id"] for row in told.rows if "task_id" in row} == {"t2", "t6"}
    exported = json.loads((tmp_path / "bob.json").read_text(encoding="utf8"))
    assert (len(exported["histories"]), len(exported["tasks"]), len(exported["outputs"])) == (6, 2, 2)
    assert all(row["user_id"] == "bob" for rows in exported.values() if isinstance(rows, list) for row in rows)
    assert pplug("user", "nobody", "--warehouse", answered).code == 4


def test_a_person_reads_headings_and_what_an_empty_answer_is(pplug: Pplug, answered: str) -> None:
    told = pplug("user", "bob", "--warehouse", answered)
    headings = ("Themes of the persona", "How the persona moved", "Users who are alike", "Tasks and answers")
    places = [told.out.index(heading) for heading in headings]
    assert places == sorted(places)
    assert (said(""), said("red"), said(None)) == ("(empty)", "red", None)


def test_themes_are_groups_of_near_vectors() -> None:
    vectors = np.array([[1, 0, 0], [0.99, 0.1, 0], [0, 1, 0], [0, 0.99, 0.1], [0.98, 0.1, 0.1]], np.float32)
    texts = ["boats 1", "boats 2", "apples 1", "apples 2", "boats 3"]
    items = [
        {"vector_number": at, "item_count": 1, "text": text, "output": text[:5]} for at, text in enumerate(texts, 1)
    ]
    found = themes(items, vectors)
    assert sum(row["items"] for row in found) == 5
    assert all(len({text.split()[0] for text in row["typical texts"].split("\n")}) == 1 for row in found)
    assert themes([], vectors[:0]) == []


def test_of_outputs_that_are_as_frequent_that_of_the_most_typical_text_stands_for_a_theme() -> None:
    """A set of texts has another order in every process."""
    vectors = np.array([[1, at / 100] for at in range(40)], np.float32)
    items = [
        {"vector_number": at, "item_count": 1, "text": f"text {at}", "output": f"output {at}"}
        for at in range(1, len(vectors) + 1)
    ]
    for theme in themes(items, vectors):
        assert theme["often"].removeprefix("output") == theme["typical texts"].partition("\n")[0].removeprefix("text")
