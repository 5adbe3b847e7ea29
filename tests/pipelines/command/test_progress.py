import logging
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

from pipelines.command.progress import progress_bars, times, waiting
from pipelines.command.streams import write_err, write_out
from pipelines.command.tables import print_rows

T = TypeVar("T")


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "CLICOLOR_FORCE"])
def test_no_variable_makes_a_terminal_of_a_file(
    variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with progress_bars() as progress:
        progress("items", 1, 2)
    print_rows([{"text": "x" * 200}])
    said = capsys.readouterr()
    assert said.err == ""
    assert "\x1b" not in said.out
    assert "x" * 200 in said.out


def test_progress_shows_nothing_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        progress("items", 1, 2)
        progress("items", 2, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_shows_one_bar_a_label_in_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bars() as progress:
        progress("steps, loss 2.0", 1, 2)
        progress("steps, loss 1.0", 2, 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert "steps, loss 1.0" in said.err
    assert "2/2" in said.err
    assert "elapsed 0:00" in said.err


def test_a_log_gets_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    with progress_bars(line_seconds=0.02) as progress:
        until(lambda: "reading tables and models, elapsed 0:00" in caplog.text)
        progress("tasks", 1200, 5000)
        until(lambda: "tasks: 1,200 of 5,000, elapsed 0:00, about 0:00 left" in caplog.text)


def test_a_phase_that_is_over_took_no_longer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("rich.console.monotonic", lambda: now[0])
    with progress_bars() as progress:
        progress("items", 0, 1)
        now[0] = 10.0
        progress("items", 1, 1)
        progress("tasks", 0, 5)
        now[0] = 700.0
    said = capsys.readouterr().err
    assert "elapsed 0:10" in said
    assert "elapsed 11:40" not in said


def test_a_terminal_shows_that_a_silent_command_works_until_it_says_something(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with waiting(silence=0.02):
        said = until(lambda: capsys.readouterr().err)
        assert said.startswith("\rworking, elapsed 0:00")
        write_err("now\n")
        before = until(lambda: capsys.readouterr().err)
        assert before.startswith(f"\r{' ' * len('working, elapsed 0:00')}\rnow\n")
        until(lambda: "working" in capsys.readouterr().err)
        with progress_bars():
            capsys.readouterr()
            time.sleep(0.1)
            assert "working" not in capsys.readouterr().err
        write_out("rows\n")
        capsys.readouterr()
        time.sleep(0.1)
        assert capsys.readouterr().err == ""


def test_a_log_is_told_of_a_silent_command(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with waiting(line_seconds=0.02):
        until(lambda: "working, elapsed 0:00" in caplog.text)


def until(found: Callable[[], T]) -> T:
    """What is found as soon as there is something, within twenty seconds."""
    end = time.monotonic() + 20
    while not (said := found()) and time.monotonic() < end:
        time.sleep(0.01)
    assert said
    return said


def test_the_time_left_is_that_of_what_is_done() -> None:
    assert times(80, 120, 405) == "elapsed 1:20, about 3:10 left"
    assert times(80, 0, 405) == times(80, 405, 405) == times(80, 0, 0) == "elapsed 1:20"
