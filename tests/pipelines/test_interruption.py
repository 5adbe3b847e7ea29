"""Ctrl-C and SIGTERM while models work: the run is `interrupted`, the code 130, and nothing after it begins."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_night import ITEMS, NIGHT, NOTE, TASKS

from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

Fill = Callable[..., Warehouse]
ROOT = Path(__file__).parent.parent.parent

INGESTS = ("pipelines.ingest", "stage_and_write")
ENCODES = ("pipelines.personas.items", "encode_items")
ANSWERS = ("pipelines.generate", "answer_queue")

INTERRUPTED_IN = """
import importlib, os, signal, sys
from pipelines.cli import main

module, name, signal_name, *words = sys.argv[1:]
function = getattr(importlib.import_module(module), name)

def interrupted(*args, **kwargs):
    setattr(sys.modules[module], name, function)
    os.kill(os.getpid(), getattr(signal, signal_name))
    return function(*args, **kwargs)

setattr(sys.modules[module], name, interrupted)
sys.exit(main(words))
"""
"""A command that gets a signal when it first calls a function of a module."""


@pytest.fixture
def folder(tmp_path: Path, encoder_folder: Path, llm_folder: Path, plug: Path) -> Path:
    """A pplug.toml that names tiny models, and files of items and tasks beside the plug."""
    assert plug.parent == tmp_path
    fields = "\n".join(f"{name} = {json.dumps(value)}" for name, value in NOTE.items())
    models = f'llm = "{llm_folder}"\nllm-dtype = "float32"\nencoder = "{encoder_folder}"\n'
    (tmp_path / "pplug.toml").write_text(f"{models}[kinds.note]\n{fields}\n", encoding="utf8")
    for name, rows in (("histories", ITEMS), ("tasks", TASKS)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    return tmp_path


def run(folder: Path, code: str, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def ran(folder: Path) -> list[tuple[str, str]]:
    warehouse = Warehouse(folder / "warehouse")
    with connect(warehouse) as db:
        return db.sql("select job, status from runs where job not like 'ingest%' order by started_at").fetchall()


def alone() -> tuple[str, ...]:
    """What starts a process as the first of its own, as in a container."""
    words = ("unshare", "--pid", "--fork", "--kill-child")
    is_possible = shutil.which("unshare") and subprocess.run([*words, "true"], check=False).returncode == 0
    return words if is_possible else ()


@pytest.mark.parametrize(
    ("function", "signal_name", "command", "found"),
    [
        (ENCODES, "SIGINT", f"nightly --plug plug --ds {NIGHT}", [("encode", "interrupted")]),
        (ENCODES, "SIGTERM", f"backfill encode --start {NIGHT} --end 2026-11-05", [("encode", "interrupted")]),
        (
            ANSWERS,
            "SIGTERM",
            f"nightly --plug plug --ds {NIGHT}",
            [("encode", "done"), ("generate", "interrupted")],
        ),
    ],
)
def test_a_signal_while_models_work_ends_the_command(
    function: tuple[str, str], signal_name: str, command: str, found: list[tuple[str, str]], folder: Path, fill: Fill
) -> None:
    fill(ITEMS, TASKS, name="warehouse")
    said = run(folder, INTERRUPTED_IN, *function, signal_name, *command.split())
    assert (said.returncode, said.stdout) == (130, ""), said.stderr
    assert said.stderr.splitlines()[-1] == "interrupted: the same command goes on where it was"
    assert ran(folder) == found


def test_the_first_process_of_a_container_heeds_sigterm(folder: Path) -> None:
    if not (before := alone()):
        pytest.skip("this machine lets us make no processes of their own number")
    said = run(folder, INTERRUPTED_IN, *INGESTS, "SIGTERM", "ingest", "histories", "histories.jsonl", before=before)
    assert said.returncode == 130, said.stderr
    assert ran(folder) == []
    with connect(Warehouse(folder / "warehouse")) as db:
        assert db.sql("select status from runs").fetchall() == [("interrupted",)]


def test_a_parent_that_has_sigterm_ignored_keeps_that(folder: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + INTERRUPTED_IN
    said = run(folder, code, *INGESTS, "SIGTERM", *f"ingest histories histories.jsonl --ds {NIGHT}".split())
    assert said.returncode == 0, said.stderr
    assert signal.getsignal(signal.SIGTERM) == before, "of this process"
