import json
import logging
import math
import threading
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.command import console
from pipelines.command.streams import visible
from pipelines.nights.runs import recorded_run
from pipelines.tables.warehouse import Warehouse

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
        console.print_rows(rows, as_json=True)
    lines = "".join(written).split("\n")
    assert [json.loads(line) for line in lines[:-1]] == rows
    assert lines[-1] == ""
    assert all(visible(line) == line for line in lines)


def test_json_has_iso_times_and_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"ds": date(2026, 11, 1), "at": datetime(2026, 11, 1, 2, tzinfo=UTC), "low": math.nan, "most": [math.inf]}
    console.print_rows([row], as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "ds": "2026-11-01",
        "at": "2026-11-01T02:00:00+00:00",
        "low": None,
        "most": [None],
    }


@pytest.mark.parametrize("query", ["select sum(n) as n from range(5) t(n)", "select 1.5::decimal(9, 2) as n"])
def test_sums_and_decimals_are_numbers(query: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = duckdb.sql(query).to_arrow_table().to_pylist()
    console.print_rows(rows, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"n": 10 if "sum" in query else 1.5}


def test_a_printed_table_keeps_long_texts_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    text = "word " * 100 + "end"
    console.print_rows([{"text": text, "run_id": "r1", "weight": 0.123456}], as_json=False, hidden=["run_id"])
    out = capsys.readouterr().out
    assert text in out
    assert "0.1235" in out
    assert "r1" not in out


def test_square_brackets_are_text_and_not_colours(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_rows([{"text": "[red]tags: [sci-fi][/red]"}], as_json=False)
    assert "[red]tags: [sci-fi][/red]" in capsys.readouterr().out


ESCAPES = "\x1b]0;a title\x07 \x1b[2J\x9b31m \r \b \u202e turned \x7f"


def test_no_terminal_obeys_what_a_user_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_rows([{"text": ESCAPES, ESCAPES: [ESCAPES]}], as_json=False)
    console.print_rows([{"text": ESCAPES}], as_json=True)
    console.message(f"no user {ESCAPES}", error=ValueError(ESCAPES))
    said = capsys.readouterr()
    assert "\\x1b[2J\\x9b31m" in said.out
    logged = console.TEXT_LINES.format(logging.LogRecord("x", logging.INFO, "", 1, ESCAPES, (), None))
    for text in (*said, logged):
        assert not {"\x1b", "\x07", "\x9b", "\r", "\b", "\u202e", "\x7f"} & set(text)
    assert json.loads(said.out.splitlines()[-1]) == {"text": ESCAPES}


def test_a_text_of_two_lines_and_of_any_script_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_rows([{"text": "größer\n中文 и 🙂\tend"}], as_json=False)
    out = capsys.readouterr().out
    assert "größer\n" in "".join(f"{line.strip()}\n" for line in out.splitlines())
    assert "中文 и 🙂" in out


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "CLICOLOR_FORCE"])
def test_no_variable_makes_a_terminal_of_a_file(
    variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with console.progress_bars() as progress:
        progress("items", 1, 2)
    console.print_rows([{"text": "x" * 200}], as_json=False)
    said = capsys.readouterr()
    assert said.err == ""
    assert "\x1b" not in said.out
    assert "x" * 200 in said.out


def test_a_long_table_says_how_many_rows_it_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_rows(({"n": n} for n in range(console.TABLE_ROWS + 7)), as_json=False)
    said = capsys.readouterr()
    assert str(console.TABLE_ROWS - 1) in said.out.split()
    assert said.err == "7 more rows: --json prints them all\n"


def test_no_rows_are_said_to_be_none(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_rows([], as_json=False)
    assert capsys.readouterr() == ("", "no rows\n")


def test_an_arrow_table_comes_row_by_row() -> None:
    rows = [{"n": n} for n in range(2 * console.TABLE_ROWS + 1)]
    assert list(console.rows_of(pa.Table.from_pylist(rows))) == rows


def test_progress_shows_nothing_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress_bars() as progress:
        progress("items", 1, 2)
        progress("items", 2, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_shows_one_bar_a_label_in_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress_bars() as progress:
        progress("steps, loss 2.0", 1, 2)
        progress("steps, loss 1.0", 2, 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert "steps, loss 1.0" in said.err
    assert "2/2" in said.err
    assert "/s" in said.err


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.message("first\n   second")
    assert capsys.readouterr().err == "first second\n"


@pytest.fixture
def loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the loggers back as they were."""
    for logger in (logging.getLogger(name) for name in (None, "apache_beam", *console.OUR_LOGGERS)):
        monkeypatch.setattr(logger, "level", logger.level)
        monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr("os.environ", {})


@pytest.mark.usefixtures("loggers")
def test_logs_go_to_stderr_and_libraries_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    console.quiet_libraries()
    logging.getLogger("pipelines.encode").info("encoded 3 items")
    logging.getLogger("a_library").warning("a notice")  # transformers, once imported, has its own level
    logging.getLogger("apache_beam.runners").error("a traceback")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("INFO encoded 3 items\n")
    assert said.err.count("\n") == 1
    console.loud_libraries()
    logging.getLogger("apache_beam.runners").error("a traceback")
    assert "a traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("loggers")
def test_json_logs_are_one_object_a_line_with_the_run_they_belong_to(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    console.quiet_libraries()
    console.format_logs(as_json=True)
    with recorded_run(Warehouse(tmp_path), "encode", date(2026, 11, 1), {}) as record:
        worker = threading.Thread(target=logging.getLogger("pipelines.x").info, args=("two\nlines",))
        worker.start()
        worker.join()
    try:
        raise ValueError("odd")
    except ValueError as error:
        console.message("an  error", logging.ERROR, error)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    run = {"run_id": record.run_id, "job": "encode", "ds": "2026-11-01"}
    wanted = [
        {"level": "debug", "logger": "pipelines.nights.runs", "message": "encode ds=2026-11-01 begins"} | run,
        {"level": "info", "logger": "pipelines.x", "message": "two\nlines"} | run,
        {"level": "debug", "logger": "pipelines.nights.runs", "message": "encode ds=2026-11-01 is done"} | run,
        {"level": "error", "logger": "pipelines.command", "message": "an error"},
    ]
    assert lines[-1].pop("traceback").endswith("ValueError: odd")
    assert all(datetime.fromisoformat(line.pop("time")).tzinfo for line in lines)
    assert lines == wanted
