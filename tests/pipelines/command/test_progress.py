import logging
import time

import pytest

from pipelines.command.progress import progress_bars, times
from pipelines.command.tables import print_rows


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

    def wait_for(text: str) -> None:
        until = time.monotonic() + 20
        while text not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)
        assert text in caplog.text

    with progress_bars(line_seconds=0.02) as progress:
        wait_for("reading tables and models, elapsed 0:00")
        progress("tasks", 1200, 5000)
        wait_for("tasks: 1,200 of 5,000, elapsed 0:00, about 0:00 left")


def test_the_time_left_is_that_of_what_is_done() -> None:
    assert times(80, 120, 405) == "elapsed 1:20, about 3:10 left"
    assert times(80, 0, 405) == times(80, 405, 405) == times(80, 0, 0) == "elapsed 1:20"
