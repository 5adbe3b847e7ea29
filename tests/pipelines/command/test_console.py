import json
import logging
import threading
from datetime import date, datetime
from pathlib import Path

import pytest

from pipelines.command import console
from pipelines.nights.runs import recorded_run
from pipelines.tables.warehouse import Warehouse

ESCAPES = "\x1b]0;a title\x07 \x1b[2J\x9b31m \r \b \u202e turned \x7f"


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.message("first\n   second")
    assert capsys.readouterr().err == "first second\n"


@pytest.fixture
def loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the loggers back as they were."""
    for logger in (logging.getLogger(name) for name in (None, "apache_beam", "transformers", *console.OUR_LOGGERS)):
        monkeypatch.setattr(logger, "level", logger.level)
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "propagate", True)  # as transformers has it where CI is set
    monkeypatch.setattr("os.environ", {})


@pytest.mark.usefixtures("loggers")
def test_logs_go_to_stderr_and_libraries_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    console.quiet_libraries()
    logging.getLogger("pipelines.encode").info("encoded 3 items")
    logging.getLogger("a_library").warning("a notice")
    logging.getLogger("transformers.modeling_utils").warning("a report")  # which, once imported, has its own level
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


@pytest.mark.usefixtures("loggers")
def test_lines_after_runs_that_overlapped_name_none_of_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    console.quiet_libraries()
    console.format_logs(as_json=True)
    first, second = (recorded_run(Warehouse(tmp_path), job, date(2026, 11, 1), {}) for job in ("encode", "generate"))
    for run in (first, second):
        run.__enter__()
    for run in (first, second):
        run.__exit__(None, None, None)
    logging.getLogger("pipelines.x").info("later")
    assert "run_id" not in json.loads(capsys.readouterr().err.splitlines()[-1])
