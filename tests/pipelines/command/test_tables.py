import csv
import io
import json
import logging
import math
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from embedder.errors import UsageError
from pipelines.command.cells import ago, decimals_of, duration, exact_cell, short_cell
from pipelines.command.console import TEXT_LINES, message
from pipelines.command.options import Printed
from pipelines.command.streams import visible
from pipelines.command.tables import TABLE_ROWS, OutputFormat, print_rows, rows_of

ESCAPES = "\x1b]0;a title\x07 \x1b[2J\x9b31m \r \b \u202e turned \x7f"
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)

NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(rows=st.lists(st.fixed_dictionaries({"a": VALUES, "b": VALUES}), max_size=5))
def test_json_lines_give_the_rows_back(rows: list[dict[str, object]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr("sys.stdout.write", written.append)
        print_rows(rows, OutputFormat.JSON)
    lines = "".join(written).split("\n")
    assert [json.loads(line) for line in lines[:-1]] == rows
    assert lines[-1] == ""
    assert all(visible(line) == line for line in lines)


def test_json_has_iso_times_and_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"ds": date(2026, 11, 1), "at": datetime(2026, 11, 1, 2, tzinfo=UTC), "low": math.nan, "most": [math.inf]}
    print_rows([row], OutputFormat.JSON)
    assert json.loads(capsys.readouterr().out) == {
        "ds": "2026-11-01",
        "at": "2026-11-01T02:00:00+00:00",
        "low": None,
        "most": [None],
    }


@pytest.mark.parametrize("query", ["select sum(n) as n from range(5) t(n)", "select 1.5::decimal(9, 2) as n"])
def test_sums_and_decimals_are_numbers(query: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = duckdb.sql(query).to_arrow_table().to_pylist()
    print_rows(rows, OutputFormat.JSON)
    assert json.loads(capsys.readouterr().out) == {"n": 10 if "sum" in query else 1.5}


def test_a_printed_table_keeps_long_texts_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    text = "word " * 100 + "end"
    print_rows([{"text": text, "run_id": "r1", "weight": 0.123456}], hidden=["run_id"])
    out = capsys.readouterr().out
    assert text in out
    assert "0.123" in out
    assert "r1" not in out


def test_square_brackets_are_text_and_not_colours(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"text": "[red]tags: [sci-fi][/red]"}])
    assert "[red]tags: [sci-fi][/red]" in capsys.readouterr().out


def test_no_terminal_obeys_what_a_user_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"text": ESCAPES, ESCAPES: [ESCAPES]}])
    print_rows([{"text": ESCAPES}], OutputFormat.JSON)
    print_rows([{"text": ESCAPES}], OutputFormat.CSV)
    print_rows([{"text": ESCAPES}], OutputFormat.WIDE)
    message(f"no user {ESCAPES}", error=ValueError(ESCAPES))
    said = capsys.readouterr()
    assert "\\x1b[2J\\x9b31m" in said.out
    logged = TEXT_LINES.format(logging.LogRecord("x", logging.INFO, "", 1, ESCAPES, (), None))
    for text in (*said, logged):
        assert not {"\x1b", "\x07", "\x9b", "\r", "\b", "\u202e", "\x7f"} & set(text)
    assert json.loads(next(line for line in said.out.splitlines() if line.startswith("{"))) == {"text": ESCAPES}


def test_a_text_of_two_lines_and_of_any_script_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"text": "größer\n中文 и 🙂\tend"}])
    out = capsys.readouterr().out
    assert "größer\n" in "".join(f"{line.strip()}\n" for line in out.splitlines())
    assert "中文 и 🙂" in out


def test_the_line_ends_of_windows_are_line_ends(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"text": "one\r\n\r\ntwo\rthree"}])
    print_rows([{"text": "one\r\ntwo"}], OutputFormat.JSON)
    table, as_json = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    assert [line.strip() for line in table.splitlines()[-3:]] == ["one", "", "two\\rthree"]
    assert json.loads(as_json) == {"text": "one\r\ntwo"}


def test_a_long_table_says_how_many_rows_it_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows({"n": n} for n in range(TABLE_ROWS + 7))
    said = capsys.readouterr()
    assert str(TABLE_ROWS - 1) in said.out.split()
    assert said.err == "7 more rows: --json prints them all\n"


def test_no_rows_are_said_to_be_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([])
    assert capsys.readouterr() == ("", "no rows\n")


def test_an_arrow_table_comes_row_by_row() -> None:
    rows = [{"n": n} for n in range(2 * TABLE_ROWS + 1)]
    assert list(rows_of(pa.Table.from_pylist(rows))) == rows


def at_screen(patch: pytest.MonkeyPatch, width: int) -> None:
    """Make stdout a terminal."""
    patch.setattr("sys.stdout.isatty", lambda: True)
    patch.setenv("COLUMNS", str(width))


def unstyled(text: str) -> str:
    """The text without bold and dim."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


RUN: dict[str, Any] = {
    "started_at": datetime.now(UTC) - timedelta(hours=2, minutes=5),
    "job": "encode",
    "ds": date(2026, 11, 1),
    "status": "done",
    "seconds": 12345.678,
    "rows_in": 1234567,
    "rows_out": 1234560,
    "rows_rejected": 7,
    "tokens": 98765432,
    "tokens_per_second": 8000.123,
    "error": None,
    "run_id": "20261101T020000-encode-0123abcd",
}

CELLS = st.none() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | st.text(max_size=200) | st.booleans()
NAMES = st.sampled_from(["user_id", "text", "rows_rejected", "value", "error", "posted_at", "score", "plug_sha256"])


@settings(max_examples=30)
@given(
    names=st.lists(NAMES, min_size=1, unique=True),
    data=st.data(),
    count=st.integers(1, 6),
    width=st.integers(40, 200),
)
def test_no_line_is_wider_than_the_terminal_and_no_number_breaks(
    names: list[str], data: st.DataObject, count: int, width: int
) -> None:
    texts = [st.text(max_size=60) if name == "text" else st.integers(-(10**9), 10**9) for name in names]
    rows = [dict(zip(names, data.draw(st.tuples(*texts)), strict=True)) for _ in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr("sys.stdout.write", written.append)
        at_screen(patch, width)
        print_rows(rows)
    out = unstyled("".join(written))
    assert all(cell_len(line) <= width for line in out.splitlines())
    shown = [f"{row[names[0]]:,}" for row in rows if names[0] != "text"]
    assert all(number in out for number in shown if "plug_sha256" not in names[0])


@given(rows=st.lists(st.fixed_dictionaries({"a": CELLS, "b": CELLS}), min_size=1, max_size=5))
def test_csv_holds_every_value_whole(rows: list[dict[str, object]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr("sys.stdout.write", written.append)
        print_rows(rows, OutputFormat.CSV)
    read = list(csv.DictReader(io.StringIO("".join(written), newline="")))
    told = [{name: visible(exact_cell(value)) for name, value in row.items()} for row in rows]
    assert [{name: value.replace("\r", "\n") for name, value in row.items()} for row in read] == told


def test_a_row_that_does_not_fit_becomes_a_block(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_screen(monkeypatch, 80)
    print_rows([RUN])
    lines = [line.split(maxsplit=1) for line in unstyled(capsys.readouterr().out).splitlines()]
    told = {line[0]: line[1] for line in lines if line}
    assert told["started_at"] == "2 h ago"
    assert (told["rows_in"], told["seconds"], told["run_id"]) == ("1,234,567", "12,346", "0123abcd")
    assert "error" not in told


def test_blocks_leave_out_what_stands_above_and_one_long_text_is_a_block(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_screen(monkeypatch, 80)
    numbers = [{f"n{column}": at + 10**9 for column in range(9)} for at in range(2)]
    print_rows([{"job": "encode", **row} for row in numbers])
    above, *rest = unstyled(capsys.readouterr().out).splitlines()
    assert above == "job encode"
    assert [line.split() for line in rest if line] == [[name, f"{n:,}"] for row in numbers for name, n in row.items()]
    print_rows([{"task_id": "t1", "input": "word " * 40, "answer": "yes"}], whole=True)
    assert [line.split()[0] for line in unstyled(capsys.readouterr().out).splitlines() if line and line[0] != " "] == [
        "task_id",
        "input",
        "answer",
    ]


def test_columns_give_way_by_width_and_what_is_the_same_stands_above(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        RUN | {"job": f"job_{at}", "rows_in": at, "tokens": at, "rows_out": at, "run_id": f"r{at}"} for at in range(5)
    ]
    at_screen(monkeypatch, 80)
    print_rows(rows)
    wide = capsys.readouterr()
    assert "status done" in wide.out.splitlines()[0]
    assert "run_id" in wide.out
    at_screen(monkeypatch, 24)
    print_rows(rows)
    said = capsys.readouterr()
    assert "run_id" not in said.out
    assert said.err.startswith("no room for ")
    assert "run_id" in said.err
    assert said.err.endswith(": --wide shows every column\n")
    at_screen(monkeypatch, 80)
    print_rows([{"id": at} | {f"a_number_of_some_thing_{column}": at for column in range(9)} for at in range(9)])
    note = capsys.readouterr().err
    assert note.startswith("no room for a_number_of_some_thing_")
    assert len(note.rstrip()) <= 80
    assert "… : " not in note


def test_names_of_columns_stay_whole_where_there_is_room_and_long_ids_are_shortened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"user_id": f"{'u' * 60}{at}", "item_rank": at, "finish_reason_count": at} for at in range(4)]
    at_screen(monkeypatch, 100)
    print_rows(rows)
    head, _, first, *_ = unstyled(capsys.readouterr().out).splitlines()
    assert head.split() == ["user_id", "item_rank", "finish_reason_count"]
    assert first.split()[0] == "u" * 31 + "…" + "u" * 7 + "0"
    at_screen(monkeypatch, 60)
    print_rows(rows)
    assert "finish_reason_count" not in capsys.readouterr().out


def test_wide_shows_every_column_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    at_screen(monkeypatch, 80)
    print_rows([RUN] * 4, OutputFormat.WIDE, hidden=["job"])
    out = capsys.readouterr().out
    assert "20261101T020000-encode-0123abcd" in out
    assert "12345.678" in out
    assert out.split().count("encode") == 4


def test_long_texts_are_cut_unless_the_whole_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"user_id": f"user-{at}", "text": "word " * 100 + f"end{at}"} for at in range(5)]
    at_screen(monkeypatch, 80)
    print_rows(rows)
    cut = capsys.readouterr().out
    assert "…" in cut
    assert "end1" not in cut
    assert len(cut.splitlines()) == 3 + 2 * 5
    print_rows(rows, whole=True)
    assert "end1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("back", "told"),
    [
        (timedelta(seconds=20), "just now"),
        (timedelta(minutes=5), "5 min ago"),
        (timedelta(hours=2), "2 h ago"),
        (timedelta(days=3), "3 d ago"),
        (timedelta(days=30), "2026-10-29"),
        (timedelta(days=-1), "2026-11-29"),
    ],
)
def test_times_read_as_people_say_them(back: timedelta, told: str) -> None:
    assert ago(NOW - back, NOW) == told
    assert ago((NOW - back).replace(tzinfo=None), NOW) == told


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.86666, 0.8, None], ["0.867", "0.800", ""]),
        ([12345.678], ["12,346"]),
        ([0.00012345], ["0.000123"]),
        ([-0.00001, 0.5], ["0.000", "0.500"]),
        ([math.nan, 2.5], ["", "2.50"]),
        ([0.0], ["0.000"]),
    ],
)
def test_the_numbers_of_a_column_have_as_many_decimals(values: list[object], shown: list[str]) -> None:
    assert [short_cell("value", value, decimals_of(values)) for value in values] == shown


def test_numbers_within_a_value_are_short_in_tables_alone() -> None:
    items = [{"item_id": "7", "weight": 0.9919162392616272}]
    assert short_cell("top_items", items, 3) == '[{"item_id": "7", "weight": 0.992}]'
    assert exact_cell(items) == '[{"item_id": "7", "weight": 0.9919162392616272}]'


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (80, "1:20"), (7509, "2:05:09")])
def test_a_duration_is_read_as_from_a_clock(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_only_one_form_can_be_wanted() -> None:
    assert Printed(as_csv=True).form is OutputFormat.CSV
    with pytest.raises(UsageError, match="--json and --wide: choose one"):
        Printed(as_json=True, wide=True)


def test_equal_answers_of_few_tasks_stay_beside_their_tasks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_screen(monkeypatch, 80)
    print_rows([{"task_id": f"t{at}", "answer": "Rain", "a new user": "Sun"} for at in range(3)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["t2", "Rain", "Sun"] in lines
