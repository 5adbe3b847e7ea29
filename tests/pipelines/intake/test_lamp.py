"""All eight shapes of LaMP arrive, its bad records are refused one by one, and every row is counted."""

import json
import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from embedder.errors import InputMissing, PplugError, UsageError
from llm_jobs.kinds import load_kinds
from pipelines.ingest import IngestResult, ingest_lamp
from pipelines.intake.lamp import lamp_kind, lamp_time
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

NIGHT, NEXT = date(2026, 11, 20), date(2026, 11, 21)
KINDS = load_kinds()
TITLES = {"id": "7", "title": "TITLE", "abstract": "ABSTRACT", "date": "2016"}
SHAPES: dict[str, tuple[str, dict[str, Any], tuple[str, str | None]]] = {
    "LaMP_1": (
        'For an author who has written the paper with the title "T", which reference is related? Just answer with [1] '
        'or [2] without explanation. [1]: "A" [2]: "B"',
        TITLES,
        ("ABSTRACT", "TITLE"),
    ),
    "LaMP_2": (
        KINDS["LaMP_2"].training_prompt("D"),
        {"id": "7", "description": "PLOT", "tag": "comedy", "date": "2016-5"},
        ("PLOT", "comedy"),
    ),
    "LaMP_2N": (
        KINDS["LaMP_2N"].training_prompt("A", ["one", "two"]),
        {"id": "7", "text": "ARTICLE", "title": "HEAD", "category": "crime", "date": "2016-05-03"},
        ("ARTICLE", "crime"),
    ),
    "LaMP_3": (
        KINDS["LaMP_3"].training_prompt("R"),
        {"id": "7", "text": "REVIEW", "score": "4", "date": 2016},
        ("REVIEW", "4"),
    ),
    "LaMP_4": (
        KINDS["LaMP_4"].training_prompt("A"),
        {"id": "7", "text": "ARTICLE", "title": "HEAD", "date": "2016-1-1"},
        ("ARTICLE", "HEAD"),
    ),
    "LaMP_5": (KINDS["LaMP_5"].training_prompt("A"), TITLES, ("ABSTRACT", "TITLE")),
    "LaMP_6": (
        KINDS["LaMP_6"].training_prompt("E"),
        {"id": "7", "text": "EMAIL", "title": "SUBJECT", "date": "2016-1-1"},
        ("EMAIL", "SUBJECT"),
    ),
    "LaMP_7": (
        "Paraphrase the following tweet without any explanation before or after it: T",
        {"id": "7", "text": "TWEET", "date": "2016-1-1"},
        ("TWEET", None),
    ),
}
PROMPT, ITEM, _ = SHAPES["LaMP_4"]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


def question(name: object = "110", **changes: object) -> dict[str, Any]:
    fields = {"id": name, "input": PROMPT, "profile": [ITEM], **changes}
    return {field: value for field, value in fields.items() if value is not ...}


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf8")
    return path


def ingest(warehouse: Warehouse, questions: object, golds: object = ..., **options: Any) -> IngestResult:
    folder = warehouse.root.parent
    outputs = None if golds is ... else write(folder / "outputs.json", {"task": "LaMP_4", "golds": golds})
    return ingest_lamp(warehouse, write(folder / "q.json", questions), outputs, NIGHT, KINDS, **options)


def rows(warehouse: Warehouse, sql: str) -> list[tuple[Any, ...]]:
    with connect(warehouse) as db:
        return db.execute(sql).fetchall()


def refused(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return rows(warehouse, "select row_id, reason from rejects order by all")


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("is_gold_known", [True, False])
def test_every_shape_becomes_a_task_and_its_users_history(
    kind: str, is_gold_known: bool, warehouse: Warehouse, tmp_path: Path
) -> None:
    prompt, item, (text, output) = SHAPES[kind]
    file = write(tmp_path / "q.json", [{"id": "110", "input": prompt, "profile": [item], "user_id": "9"}])
    task = kind.removesuffix("N")  # LaMP_2N calls itself LaMP_2
    golds = write(tmp_path / "o.json", {"task": task, "golds": [{"id": "110", "output": "GOLD"}]})
    result = ingest_lamp(warehouse, file, golds if is_gold_known else None, NIGHT, KINDS)
    assert result == IngestResult(2, 2, 0, changed=2)
    choices = ["one", "two"] if kind == "LaMP_2N" else KINDS[kind].choices
    expected = None if choices is None else list(choices)
    queued_at, gold = datetime(2026, 11, 20), "GOLD" if is_gold_known else None
    assert rows(warehouse, "select * from tasks") == [("110", "110", kind, queued_at, prompt, expected, gold, NIGHT)]
    found = rows(warehouse, "select user_id, item_id, kind, year(posted_at), text, output from histories")
    assert found == [("110", "7", kind, 2016, text, output)]


@pytest.mark.parametrize(
    ("changes", "refusals", "kept"),
    [
        ({"input": "the malformed input of user-based LaMP_2 dev 110"}, [("110", "malformed_input")], 1),
        ({"input": "Generate a headline for the following article:  "}, [("110", "malformed_input")], 1),
        ({"input": ...}, [("110", "missing_input")], 1),
        ({"input": ""}, [("110", "empty_input")], 1),
        ({"input": ["x"]}, [("110", "wrong_type_input")], 1),
        ({"input": PROMPT + "\ud800"}, [("110", "not_utf8")], 1),
        ({"id": ...}, [("q.json:2", "missing_task_id"), ("q.json:2/1", "missing_user_id")], 0),
        ({"id": ["110"]}, [("q.json:2", "wrong_type_task_id"), ("q.json:2/1", "wrong_type_user_id")], 0),
        ({"id": " "}, [(" ", "empty_task_id"), (" /1", "empty_user_id")], 0),
        ({"profile": []}, [], 1),
        ({"profile": ...}, [], 1),
        ({"profile": None}, [], 1),
        ({"profile": "none"}, [("110", "wrong_type_profile")], 1),
        ({"profile": {"id": "7"}}, [("110", "wrong_type_profile")], 1),
        ({"profile": [None]}, [("110/1", "not_an_object")], 1),
        ({"profile": [ITEM, "x"]}, [("110/2", "not_an_object")], 2),
        ({"profile": [{**ITEM, "text": None}]}, [("110/1", "missing_text")], 1),
        ({"profile": [{**ITEM, "text": ""}]}, [("110/1", "empty_text")], 1),
        ({"profile": [{**ITEM, "text": [5]}]}, [("110/1", "wrong_type_text")], 1),
        ({"profile": [{**ITEM, "date": None}]}, [("110/1", "missing_date")], 1),
        ({"profile": [{**ITEM, "date": "soon"}]}, [("110/1", "bad_time")], 1),
        ({"profile": [{**ITEM, "date": "2016-13"}]}, [("110/1", "bad_time")], 1),
        ({"profile": [{**ITEM, "date": [2016]}]}, [("110/1", "wrong_type_posted_at")], 1),
        ({"profile": [{**ITEM, "title": None}]}, [("110/1", "missing_title")], 1),
        ({"profile": [{**ITEM, "title": ["x"]}]}, [("110/1", "wrong_type_output")], 1),
        ({"profile": [{**ITEM, "title": ""}]}, [], 2),
        ({"profile": [{**ITEM, "id": None}]}, [("110/1", "missing_id")], 1),
        ({"profile": [{**ITEM, "id": 7}]}, [], 2),
        ({"profile": [ITEM, ITEM]}, [], 3),
        ({"profile": [ITEM, {**ITEM, "text": "other"}]}, [], 3),
        (
            {"profile": [{**ITEM, "date": 16}, {**ITEM, "date": "16"}]},
            [("110/1", "bad_time"), ("110/2", "bad_time")],
            1,
        ),
        ({"profile": [{**ITEM, "date": 20160503}]}, [], 2),
    ],
)
def test_a_bad_record_is_refused_alone(
    changes: dict[str, Any], refusals: list[tuple[str, str]], kept: int, warehouse: Warehouse
) -> None:
    result = ingest(warehouse, [question("1"), question(changes.pop("id", "110"), **changes)])
    assert refused(warehouse) == refusals
    assert result.rows_rejected == len(refusals)
    assert result.rows_out == 2 + kept
    assert result.rows_in == result.rows_out + result.rows_rejected


@pytest.mark.parametrize("element", [None, 5, "x", [], [question()]])
def test_what_is_no_question_is_refused_by_its_place(element: object, warehouse: Warehouse) -> None:
    assert ingest(warehouse, [question("1"), element]) == IngestResult(3, 2, 1, changed=2)
    assert refused(warehouse) == [("q.json:2", "not_an_object")]


def test_a_question_without_gold_is_kept_and_a_gold_without_question_is_refused(warehouse: Warehouse) -> None:
    golds = [{"id": "1", "output": "one"}, {"id": "3", "output": "three"}]
    result = ingest(warehouse, [question("1", profile=[]), question("2", profile=[])], golds)
    assert result == IngestResult(3, 2, 1, changed=2)
    assert rows(warehouse, "select task_id, reference from tasks order by all") == [("1", "one"), ("2", None)]
    assert rows(warehouse, "select row_id, user_id, reason, detail from rejects") == [
        ("3", "3", "gold_without_question", "a text of 5 characters")
    ]


def test_bad_golds_are_refused_and_their_questions_kept(warehouse: Warehouse) -> None:
    golds = [
        {"id": "1", "output": "x"},
        {"id": "1", "output": "y"},
        {"id": "2"},
        {"output": "z"},
        {"id": [2], "output": "z"},
        {"id": "2", "output": ["z"]},
        "z",
        {"id": 3, "output": 4.0},
        {"id": "3", "output": "4"},
    ]
    result = ingest(warehouse, [question(str(number), profile=[]) for number in (1, 2, 3)], golds)
    assert result == IngestResult(10, 3, 7, changed=3)
    assert rows(warehouse, "select task_id, reference from tasks order by all") == [
        ("1", None),
        ("2", None),
        ("3", "4"),
    ]
    assert refused(warehouse) == [
        ("1", "conflicting_gold"),
        ("1", "conflicting_gold"),
        ("outputs.json:3", "missing_output"),
        ("outputs.json:4", "missing_id"),
        ("outputs.json:5", "wrong_type_id"),
        ("outputs.json:6", "wrong_type_output"),
        ("outputs.json:7", "not_an_object"),
    ]


def test_of_two_questions_with_one_id_the_last_wins(warehouse: Warehouse) -> None:
    questions = [question("1", profile=[]), question("1", input=PROMPT + " more"), question("2", profile=[])]
    assert ingest(warehouse, questions) == IngestResult(4, 4, 0, changed=3, superseded=1)
    assert rows(warehouse, "select input from tasks where task_id = '1'") == [(PROMPT + " more",)]


def test_the_same_files_twice_change_nothing(warehouse: Warehouse) -> None:
    questions, golds = [question("1"), question("2", profile="bad")], [{"id": "1", "output": "o"}]
    first = ingest(warehouse, questions, golds)
    versions = warehouse.versions()
    assert ingest(warehouse, questions, golds) == IngestResult(4, 3, 1, unchanged=3)
    assert first == IngestResult(4, 3, 1, changed=3)
    changing = {"rejects": 0, "runs": 0}
    assert warehouse.versions() | changing == versions | changing


def test_a_dry_run_writes_nothing(warehouse: Warehouse) -> None:
    assert ingest(warehouse, [question()], dry_run=True) == IngestResult(2, 2, 0, changed=2)
    assert not warehouse.root.exists()


def test_user_based_files_have_no_dates_and_need_a_day_that_stands_for_them(warehouse: Warehouse) -> None:
    undated = {name: value for name, value in ITEM.items() if name != "date"}
    assert ingest(warehouse, [question(profile=[undated])]).rows_rejected == 1
    assert ingest(warehouse, [question(profile=[undated])], undated=date(1970, 1, 1)).rows_rejected == 0
    assert rows(warehouse, "select posted_at from histories") == [(datetime(1970, 1, 1),)]
    assert refused(warehouse) == []


@pytest.mark.parametrize(
    ("prompt", "task", "item", "kind"),
    [
        (SHAPES["LaMP_2N"][0], "LaMP_2", SHAPES["LaMP_2N"][1], "LaMP_2N"),
        (SHAPES["LaMP_2"][0], "LaMP_2", SHAPES["LaMP_2"][1], "LaMP_2"),
        ("reworded description: D", "LaMP_2", SHAPES["LaMP_2"][1], "LaMP_2"),
        ("reworded categories: [a, b] article: A", "LaMP_2", SHAPES["LaMP_2N"][1], "LaMP_2N"),
        ("reworded article: A", "LaMP_4", ITEM, "LaMP_4"),
        ("reworded article: A", "LaMP_4", None, "LaMP_4"),
        (SHAPES["LaMP_5"][0], None, TITLES, "LaMP_5"),
        (SHAPES["LaMP_1"][0], "unknown", TITLES, "LaMP_1"),
        ("reworded review: R", None, SHAPES["LaMP_3"][1], "LaMP_3"),
        ("reworded description: D", "unknown", SHAPES["LaMP_2"][1], "LaMP_2"),
    ],
)
def test_the_kind_is_found_out_from_prompt_name_and_fields(
    prompt: str, task: str | None, item: dict[str, Any] | None, kind: str
) -> None:
    asked = {"id": "1", "input": prompt, "profile": [] if item is None else [item]}
    found = lamp_kind([asked], task, KINDS)
    assert found is not None
    assert found.name == kind


def test_a_kind_that_cannot_be_found_out_is_asked_for(warehouse: Warehouse) -> None:
    questions = [question(input="reworded article: A")]
    with pytest.raises(UsageError, match=r"q\.json.*name it with --kind"):
        ingest(warehouse, questions)
    assert list(warehouse.root.glob("_staging/*")) == []
    assert ingest(warehouse, questions, kind="LaMP_4").rows_out == 2
    with pytest.raises(UsageError, match="no kind 'LaMP_8': there are LaMP_1, "):
        ingest(warehouse, questions, kind="LaMP_8")


def test_a_users_own_kind_can_have_a_lamp_shape(warehouse: Warehouse, tmp_path: Path) -> None:
    own = {"metric": "rouge", "lamp_prompt": "Reply to", "lamp_text": "post", "lamp_output": "reply"}
    item = {"id": "1", "post": "P", "reply": "R", "date": "2020"}
    file = write(tmp_path / "q.json", [{"id": "1", "input": "Reply to: x", "profile": [item]}])
    assert ingest_lamp(warehouse, file, None, NIGHT, load_kinds({"reply": own})).rows_out == 2
    assert rows(warehouse, "select kind, text, output from histories") == [("reply", "P", "R")]


@pytest.mark.parametrize(
    ("content", "rows_out", "refusals"),
    [
        ("", 0, [("q.json:1", "not_a_list")]),
        ('{"id": "1"}', 0, [("q.json:1", "not_a_list")]),
        ("id,input", 0, [("q.json:1", "not_a_list")]),
        ("[", 0, [("q.json:1", "broken_json")]),
        ("[]", 0, []),
        (" [ ] \n", 0, []),
        (json.dumps([question("1")])[:-1], 0, [("q.json:1", "broken_json")]),
        (json.dumps([question("1"), question("2")])[:-1], 2, [("q.json:2", "broken_json")]),
        (json.dumps([question("1"), question("2")])[:-20], 2, [("q.json:2", "broken_json")]),
        (json.dumps([question("1")]) + "[]", 2, [("q.json:2", "broken_json")]),
        ("[" + "[" * 100_000, 0, [("q.json:1", "broken_json")]),
    ],
)
def test_a_broken_file_keeps_the_questions_before_the_break(
    content: str, rows_out: int, refusals: list[tuple[str, str]], warehouse: Warehouse
) -> None:
    result = ingest(warehouse, content)
    assert (result.rows_out, result.rows_rejected) == (rows_out, len(refusals))
    assert refused(warehouse) == refusals


def test_a_bad_byte_refuses_its_row_alone(warehouse: Warehouse, tmp_path: Path) -> None:
    content = json.dumps([question("1"), question("2", profile=[{**ITEM, "text": "X"}])]).encode()
    (tmp_path / "q.json").write_bytes(content.replace(b'"X"', b'"\xff"'))
    assert ingest_lamp(warehouse, tmp_path / "q.json", None, NIGHT, KINDS) == IngestResult(4, 3, 1, changed=3)
    assert refused(warehouse) == [("2/1", "not_utf8")]


def test_the_questions_of_avocado_stand_in_an_object(warehouse: Warehouse, tmp_path: Path) -> None:
    prompt, item, _ = SHAPES["LaMP_6"]
    content = {"task": "LaMP_6", "golds": [{"id": n, "input": prompt, "profile": [item]} for n in ("1", "2")]}
    file = write(tmp_path / "q.json", content)
    assert ingest_lamp(warehouse, file, None, NIGHT, KINDS) == IngestResult(4, 4, 0, changed=4)
    assert rows(warehouse, "select distinct kind from tasks") == [("LaMP_6",)]


def test_a_file_of_another_benchmark_is_not_guessed(warehouse: Warehouse) -> None:
    asked = {"id": "1", "question": "Q", "narrative": "N", "profile": [{"id": "7", "text": "T", "category": "C"}]}
    with pytest.raises(UsageError, match="name it with --kind"):
        ingest(warehouse, [asked])


def test_a_list_with_a_question_a_line_is_read_whole(warehouse: Warehouse) -> None:
    content = "[" + ",\n".join(json.dumps(question(str(number))) for number in range(5)) + "]"
    assert ingest(warehouse, content).rows_out == 10


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"golds": 5}', '{"golds": null}', "[" * 100_000])
def test_an_outputs_file_of_another_shape_is_told_in_one_line(
    content: str, warehouse: Warehouse, tmp_path: Path
) -> None:
    questions = write(tmp_path / "q.json", [question()])
    with pytest.raises(PplugError, match="give LaMP's outputs file"):
        ingest_lamp(warehouse, questions, write(tmp_path / "o.json", content), NIGHT, KINDS)


def test_a_missing_file_is_told_before_anything_is_written(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"o\.json"):
        ingest_lamp(warehouse, write(tmp_path / "q.json", [question()]), tmp_path / "o.json", NIGHT, KINDS)
    assert not warehouse.root.exists()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2016", datetime(2016, 1, 1, tzinfo=UTC).isoformat()),
        (2016, datetime(2016, 1, 1, tzinfo=UTC).isoformat()),
        ("2016-5", datetime(2016, 5, 1, tzinfo=UTC).isoformat()),
        ("2016-05-03", datetime(2016, 5, 3, tzinfo=UTC).isoformat()),
        ("2016-5-3", datetime(2016, 5, 3, tzinfo=UTC).isoformat()),
        (20160503, datetime(2016, 5, 3, tzinfo=UTC).isoformat()),
        ("20160503", datetime(2016, 5, 3, tzinfo=UTC).isoformat()),
        ("16", "16"),
        (16, 16),
        ("2016-5-3-14-30", datetime(2016, 5, 3, 14, 30, tzinfo=UTC).isoformat()),
        ("2016-13", "2016-13"),
        ("2016-05-03T00:00:00Z", "2016-05-03T00:00:00Z"),
        (None, None),
    ],
)
def test_dates_are_whole_numbers_between_dashes(value: object, expected: object) -> None:
    assert lamp_time(value, None) == expected


@pytest.mark.skipif("REAL_DATA" not in os.environ, reason="set REAL_DATA to a folder of LaMP files")
@pytest.mark.parametrize(
    ("kind", "rows_in"), [("LaMP_2N", 12_707), ("LaMP_3", 410), ("LaMP_4", 15_215), ("LaMP_5", 8_097)]
)
def test_real_files_arrive_whole(kind: str, rows_in: int, warehouse: Warehouse) -> None:
    folder = Path(os.environ["REAL_DATA"]) / "lamp" / kind
    result = ingest_lamp(warehouse, folder / "dev_questions.json", folder / "dev_outputs.json", NIGHT, KINDS)
    assert result == IngestResult(rows_in, rows_in, 0, changed=rows_in)
