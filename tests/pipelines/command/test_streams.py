"""A command whose stdout or stderr is closed, read no further, full, or of another encoding."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = "größer 中文 █ и"
SCRIPT = f"""
import sys, typer
from embedder.errors import UsageError
from pipelines.command.boundary import run_app
from pipelines.command.console import message
from pipelines.command.tables import OutputFormat, print_rows

app = typer.Typer(rich_markup_mode=None)

@app.command()
def many():
    print_rows(({{"number": number, "text": "x" * 1000}} for number in range(5000)), OutputFormat.JSON)
    message("after the rows")

@app.command()
def text(form: OutputFormat = OutputFormat.TABLE):
    print_rows([{{"text": {TEXT!a}}}], form)
    raise UsageError({TEXT!a})

sys.exit(run_app(app, None))
"""


def said(line: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """What a line of bash leaves behind; the exit code is that of the first command."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])} | variables
    line = f"{shlex.quote(sys.executable)} -c {shlex.quote(SCRIPT)} {line}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, check=False)


def test_a_reader_that_takes_the_first_row_ends_nothing_badly() -> None:
    found = said("many | head -1")
    assert (found.returncode, found.stderr) == (0, b"after the rows\n")
    assert json.loads(found.stdout)["number"] == 0


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_command_runs_without_its_streams(closed: str) -> None:
    found = said(f"many {closed}")
    assert (found.returncode, found.stdout) == (0, b"")
    assert found.stderr == (b"" if "2>" in closed else b"after the rows\n")
    assert said(f"text {closed}").returncode == 2


def test_a_reader_of_both_streams_may_go() -> None:
    assert said("text 2>&1 | true").returncode == 2


def test_what_cannot_be_written_is_told_in_one_line() -> None:
    found = said("many > /dev/full")
    told = b"stdout cannot be written (No space left on device): free some space, or send it elsewhere\n"
    assert (found.returncode, found.stderr) == (1, told)


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_any_text_goes_through_any_encoding(variables: dict[str, str]) -> None:
    found = said("text --form json", **variables)
    assert (found.returncode, json.loads(found.stdout)) == (2, {"text": TEXT})
    assert b"\\u4e2d\\u6587" in found.stderr
    assert found.stderr.count(b"\n") == 1
    assert b"\\u4e2d\\u6587" in said("text", **variables).stdout
