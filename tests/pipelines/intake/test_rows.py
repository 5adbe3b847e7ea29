"""Any line becomes a row or a refusal that says why."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingesting import HISTORY, KINDS, TASK
from malformed_rows import MALFORMED_HISTORIES, MALFORMED_TASKS

from pipelines.intake.rows import DETAIL_CHARACTERS, Refusal, parse_history, parse_line, parse_task, parse_time, shown


@pytest.mark.parametrize(("line", "reason"), MALFORMED_HISTORIES)
def test_a_malformed_history_line_is_refused_with_its_reason(line: bytes, reason: str) -> None:
    record = parse_line(line)
    refusal = record if isinstance(record, Refusal) else parse_history(record, KINDS)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason


@pytest.mark.parametrize(("line", "reason"), MALFORMED_TASKS)
def test_a_malformed_task_line_is_refused_with_its_reason(line: bytes, reason: str) -> None:
    record = parse_line(line)
    refusal = record if isinstance(record, Refusal) else parse_task(record, KINDS)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason


def test_a_refusal_shows_the_value_and_whose_it_is() -> None:
    assert parse_history({**HISTORY, "posted_at": "soon"}, KINDS) == Refusal("bad_time", "soon", "u")
    refusal = parse_history({**HISTORY, "text": ["x" * 1_000]}, KINDS)
    assert isinstance(refusal, Refusal)
    assert len(refusal.detail) == DETAIL_CHARACTERS


def test_null_and_absent_are_the_same_and_other_fields_are_ignored() -> None:
    row = parse_history({**HISTORY, "output": None, "language": "en", "deleted": None}, KINDS)
    bare = {name: value for name, value in HISTORY.items() if name != "output"}
    assert row == parse_history(bare, KINDS)


@pytest.mark.parametrize("output", [None, "", " \n"])
def test_an_output_of_nothing_is_null(output: str | None) -> None:
    row = parse_history({**HISTORY, "output": output}, KINDS)
    assert not isinstance(row, Refusal)
    assert row["output"] is None


def test_texts_are_kept_as_they_are() -> None:
    row = parse_history({**HISTORY, "user_id": " u ", "text": "\n t\0 ", "output": "\to "}, KINDS)
    assert not isinstance(row, Refusal)
    assert (row["user_id"], row["text"], row["output"]) == (" u ", "\n t\0 ", "\to ")


def test_a_deletion_needs_the_key_alone_and_no_kind_that_still_exists() -> None:
    row = parse_history({"user_id": "u", "item_id": "i", "kind": "gone", "deleted": True, "text": 5}, KINDS)
    expected = {"user_id": "u", "item_id": "i", "kind": "gone", "deleted": True}
    assert row == {**expected, "posted_at": None, "text": None, "output": None}
    assert not isinstance(parse_task({"task_id": "t", "deleted": True}, KINDS), Refusal)


MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-20", MIDNIGHT),
        (" 2026-11-20 ", MIDNIGHT),
        ("2026-11-20T00:00", MIDNIGHT),
        ("2026-11-20 00:00:00", MIDNIGHT),
        ("2026-11-20T00:00:00Z", MIDNIGHT),
        ("2026-11-20T01:00:00+01:00", MIDNIGHT),
        ("2026-11-19T19:00:00.000000-05:00", MIDNIGHT),
        ("2026-11-20T00:00:00.123456789Z", MIDNIGHT.replace(microsecond=123456)),
        (int(MIDNIGHT.timestamp()), MIDNIGHT),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (date(2026, 11, 20), MIDNIGHT),
        (datetime(2026, 11, 20), MIDNIGHT),
        (datetime(2026, 11, 20, 1, tzinfo=timezone(timedelta(hours=1))), MIDNIGHT),
    ],
)
def test_times_are_read_in_every_spelling_of_the_contract(value: object, expected: datetime) -> None:
    assert parse_time(value) == expected


@given(st.datetimes(timezones=st.timezones()).filter(lambda moment: 2 < moment.year < 9998))
def test_a_time_in_any_zone_is_the_same_moment_in_utc(moment: datetime) -> None:
    assert parse_time(moment.isoformat()) == moment.astimezone(UTC)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def records(like: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with the fields of a row, some as they should be and some not."""
    fields = {name: st.just(value) | json_values for name, value in {**like, "deleted": False, "choices": None}.items()}
    return st.fixed_dictionaries({}, optional=fields)


@given(
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | records(HISTORY).map(json.dumps).map(str.encode)
)
def test_every_line_is_a_row_or_a_refusal_that_can_be_written(line: bytes) -> None:
    record = parse_line(line)
    for parse in (parse_history, parse_task):
        found = record if isinstance(record, Refusal) else parse(record, KINDS)
        if isinstance(found, Refusal):
            assert found.reason.isidentifier()
            assert len(found.detail) <= DETAIL_CHARACTERS
            f"{found.detail}{found.user_id}".encode()
        else:
            json.dumps(found, default=str, ensure_ascii=False).encode()


@given(records(HISTORY), records(TASK))
def test_a_row_is_parsed_the_same_whatever_the_order_of_its_fields(one: dict[str, Any], other: dict[str, Any]) -> None:
    for record, parse in ((one, parse_history), (other, parse_task)):
        first, second = parse(record, KINDS), parse(dict(reversed(record.items())), KINDS)
        reasons = [found.reason if isinstance(found, Refusal) else repr(found) for found in (first, second)]
        assert reasons[0] == reasons[1]


@given(st.text() | st.binary() | json_values)
def test_what_is_shown_is_short_and_can_be_written(value: object) -> None:
    assert len(shown(value).encode().decode()) <= DETAIL_CHARACTERS
