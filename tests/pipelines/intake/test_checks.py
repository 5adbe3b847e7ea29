"""Columns are checked as a slow reader would check row by row."""

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingesting import HISTORY, KINDS, TASK
from malformed_rows import MALFORMED_HISTORIES, MALFORMED_TASKS

from llm_jobs.kinds import SPOKEN, load_kinds
from pipelines.intake.checks import COLUMN_TYPES, Checked, ColumnType, RowRules, check_chunk, made_id, renamed
from pipelines.intake.chunks import chunks_of_records
from pipelines.intake.json_files import parse_line
from pipelines.intake.rejects import Reject
from pipelines.intake.times import Years, moment

RULES = RowRules(KINDS, Years(1990, 2027), frozenset({"forgotten"}))


def check(name: str, *records: object) -> Checked:
    (chunk,) = chunks_of_records("h", enumerate(records, 1), renamed(name, {}))
    return check_chunk(name, chunk, RULES)


def row_of(name: str, record: dict[str, Any]) -> dict[str, Any]:
    checked = check(name, record)
    assert checked.refused == []
    return checked.rows.to_pylist()[0]


@pytest.mark.parametrize(("name", "cases"), [("histories", MALFORMED_HISTORIES), ("tasks", MALFORMED_TASKS)])
def test_every_malformed_line_is_refused_with_its_reason(name: str, cases: list[tuple[bytes, str]]) -> None:
    checked = check(name, *(parse_line(line) for line, _ in cases))
    reasons = {row_id: refusal.reason for row_id, refusal in checked.refused}
    assert reasons == {f"h:{number}": reason for number, (_, reason) in enumerate(cases, 1)}
    assert checked.rows.num_rows == 0


def test_a_refusal_says_whose_the_row_is_and_nothing_of_what_it_says() -> None:
    checked = check("histories", {**HISTORY, "posted_at": "20/11/2026"}, {**HISTORY, "text": ["x" * 1_000]})
    assert [refusal for _, refusal in checked.refused] == [
        Reject("bad_time", "a text of 10 characters like 00/00/0000", "u"),
        Reject("wrong_type_text", "a list of 1", "u"),
    ]


def test_null_and_absent_are_the_same_and_other_fields_are_ignored() -> None:
    bare = {name: value for name, value in HISTORY.items() if name != "output"}
    assert row_of("histories", {**HISTORY, "output": None, "more": 1, "deleted": None}) == row_of("histories", bare)


@pytest.mark.parametrize("output", [None, "", " \n"])
def test_an_output_of_nothing_is_null(output: str | None) -> None:
    assert row_of("histories", {**HISTORY, "output": output})["output"] is None


def test_texts_are_kept_as_they_are_and_numbers_become_texts() -> None:
    row = row_of("histories", {**HISTORY, "user_id": " u ", "text": "\n t\0 ", "output": 5.0, "item_id": 12345678901})
    assert (row["user_id"], row["text"], row["output"], row["item_id"]) == (" u ", "\n t\0 ", "5", "12345678901")
    assert row_of("histories", {**HISTORY, "output": 4.5})["output"] == "4.5"


def test_an_item_without_an_id_gets_one_from_user_time_and_text() -> None:
    bare = {name: value for name, value in HISTORY.items() if name != "item_id"}
    ids = [row_of("histories", bare | change)["item_id"] for change in ({}, {"output": "x"}, {"text": "other"})]
    assert ids[0] == ids[1] != ids[2]
    assert [refusal.reason for _, refusal in check("histories", bare | {"deleted": True}).refused] == [
        "missing_item_id"
    ]


def test_a_deletion_needs_the_key_alone_and_no_kind_that_still_exists() -> None:
    row = row_of("histories", {"user_id": "u", "item_id": "i", "kind": "gone", "deleted": True, "text": ["x"]})
    assert row == {**dict.fromkeys(HISTORY), "user_id": "u", "item_id": "i", "kind": "gone", "deleted": True}
    assert row_of("tasks", {"task_id": "t", "deleted": True})["deleted"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def records(like: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with the fields of a row, most as they should be."""
    odd = json_values | st.sampled_from(
        [" ", "forgotten", 1_763_596_800, 20261101, "2026-02-30", "\ud800", "x" * 1_001]
    )
    good = {**like, "deleted": False, "choices": None}
    fields = {name: st.just(value) | st.just(value) | st.just(value) | odd for name, value in good.items()}
    return st.fixed_dictionaries(fields) | st.fixed_dictionaries({}, optional=fields)


def slowly(name: str, record: dict[str, Any]) -> dict[str, Any] | str:
    """The oracle: a row, or the reason why there is none."""
    deleted = record.get("deleted")
    if isinstance(deleted, str) and deleted.strip().lower() in ("true", "false", ""):
        deleted = {"true": True, "false": False}.get(deleted.strip().lower())
    forms = COLUMN_TYPES[name]
    row: dict[str, Any] = dict.fromkeys(forms)
    reason = "" if deleted is None or isinstance(deleted, bool) else "wrong_type_deleted"
    for column, form in forms.items():
        if deleted is True and form is not ColumnType.KEY:
            continue
        value = slow_value(form, record.get(column))
        if column == "item_id" and value == (None, "missing") and deleted is not True:
            row[column] = "made"
        elif value[1] and not reason:
            plain = ("bad_time", "not_utf8", "empty_choice")
            reason = value[1] if value[1] in plain else f"{value[1]}_{column}"
        else:
            row[column] = value[0]
    if not reason and deleted is not True and row["kind"] not in KINDS:
        reason = "unknown_kind"
    if record.get("user_id") == "forgotten":
        return "forgotten_user"
    if row.get("item_id") == "made" and not reason:
        row["item_id"] = made_id(row["user_id"], round(row["posted_at"].timestamp() * 1e6), row["text"])
    return reason or row | {"deleted": deleted is True}


def slow_value(form: ColumnType, value: object) -> tuple[Any, str]:
    if form is ColumnType.TIME:
        text, problem = slow_value(ColumnType.OPTIONAL, value)
        if value is None or problem:
            return None, problem or "missing"
        found = moment(text or "", RULES.years)
        return found, "" if found else "bad_time"
    if form is ColumnType.CHOICES:
        return slow_choices(value)
    if isinstance(value, bool | list | dict):
        return None, "wrong_type"
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value
    text = None if value is None else str(value)
    if text is not None and any("\ud800" <= letter <= "\udfff" for letter in text):
        return None, "not_utf8"
    if form is ColumnType.OPTIONAL:
        return (text if text and text.strip() else None), ""
    if text is None or not text.strip():
        return None, "missing" if text is None else "empty"
    return text, "too_long" if form in (ColumnType.KEY, ColumnType.ID) and len(text.encode()) > 1_000 else ""


def slow_choices(value: object) -> tuple[Any, str]:
    if value is None or value == "":
        return None, ""
    if not isinstance(value, list):
        return None, "wrong_type"
    texts = [slow_value(ColumnType.TEXT, choice) for choice in value]
    problems = [problem for _, problem in texts]
    for problem in ("wrong_type", "missing", "not_utf8"):
        if problem in problems:
            return None, "wrong_type" if problem == "missing" else problem
    if not texts or "empty" in problems:
        return None, "empty_choice" if texts else "empty"
    return [text for text, _ in texts], "repeated" if len({text for text, _ in texts}) < len(texts) else ""


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["histories", "tasks"]).flatmap(
        lambda name: st.tuples(st.just(name), st.lists(records(HISTORY if name == "histories" else TASK), max_size=6))
    )
)
def test_columns_are_checked_as_row_by_row(given_rows: tuple[str, list[dict[str, Any]]]) -> None:
    name, found = given_rows
    expected = [slowly(name, record) for record in found]
    checked = check(name, *found)
    reasons = {row_id: refusal.reason for row_id, refusal in checked.refused}
    assert reasons == {f"h:{at}": reason for at, reason in enumerate(expected, 1) if isinstance(reason, str)}
    assert checked.rows.to_pylist() == [row for row in expected if isinstance(row, dict)]
    for _, refusal in checked.refused:
        assert len(refusal.detail) <= 200, "as the column says"
        assert (refusal.user_id is None) or refusal.user_id.encode()


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_every_line_is_a_row_or_a_refusal(line: bytes) -> None:
    for name in COLUMN_TYPES:
        checked = check(name, parse_line(line))
        assert checked.rows.num_rows + len(checked.refused) == 1


def test_a_column_of_any_type_is_the_same_as_its_values_one_by_one() -> None:
    from pipelines.intake.columns import read_texts

    columns = [
        pa.array([1, None], pa.int16()),
        pa.array([1.0, float("nan"), None]),
        pa.array(["a", None]).dictionary_encode(),
        pa.array(["a", None], pa.large_string()),
        pa.array([b"a", b"\xff"]),
    ]
    for column, texts in zip(
        columns, [["1", None], ["1", None, None], ["a", None], ["a", None], ["a", None]], strict=True
    ):
        assert read_texts(column).values.to_pylist() == texts
    assert read_texts(columns[-1]).reasons.tolist() == ["", "not_utf8"]


def test_the_time_of_a_row_is_in_utc() -> None:
    row = row_of("histories", {**HISTORY, "posted_at": "2026-11-20T01:00:00+01:00"})
    assert row["posted_at"] == datetime(2026, 11, 20, tzinfo=UTC)


def test_a_task_may_bring_a_text_alone_and_a_kind_by_its_spoken_name() -> None:
    kinds = load_kinds()
    tasks = [
        {**TASK, "task_id": "1", "kind": "headline", "input": None, "text": "It rained."},
        {**TASK, "task_id": "2", "kind": "news_category", "input": None, "text": "It rained.", "choices": ["a", "b"]},
        {**TASK, "task_id": "3", "kind": "movie_tag", "input": None, "text": "A film."},
        {**TASK, "task_id": "4", "kind": None, "input": "given", "text": "not this"},
        {**TASK, "task_id": "5", "kind": "citation", "input": None, "text": "no prompt of its own"},
        {**TASK, "task_id": "6", "kind": "LaMP_4", "input": None, "text": " "},
        {**TASK, "task_id": "7", "kind": ["LaMP_4"]},
    ]
    (chunk,) = chunks_of_records("t", enumerate(tasks, 1), renamed("tasks", {}))
    checked = check_chunk("tasks", chunk, RowRules(kinds, RULES.years, kind="LaMP_4"))
    found = [(row["kind"], row["input"], row["choices"]) for row in checked.rows.to_pylist()]
    assert found == [
        ("LaMP_4", kinds["LaMP_4"].training_prompt("It rained."), None),
        ("LaMP_2N", kinds["LaMP_2N"].training_prompt("It rained.", ["a", "b"]), ["a", "b"]),
        ("LaMP_2", kinds["LaMP_2"].training_prompt("A film."), list(kinds["LaMP_2"].choices or ())),
        ("LaMP_4", "given", None),
    ]
    reasons = [refusal.reason for _, refusal in checked.refused]
    assert reasons == ["missing_input", "missing_input", "wrong_type_kind"]


def test_every_built_in_kind_has_a_spoken_name() -> None:
    assert sorted(SPOKEN.values()) == sorted(load_kinds())
