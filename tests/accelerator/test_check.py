"""The checks for a GPU run without one, in tiny shapes."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "check.sh"


def failure(table: Path, *words: str, **environment: str) -> str:
    """Run the script where it must fail; its table."""
    table.write_text("of an earlier run", "utf8")
    done = subprocess.run(
        [SCRIPT, table, *words], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    return table.read_text("utf8")


def test_without_the_device_the_table_says_so(tmp_path: Path) -> None:
    text = failure(tmp_path / "table.md", "--tiny", PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")
    assert "| device |  |  | FAILED: device cuda: torch" in text


def test_without_packages_the_table_says_so(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n', "utf8")  # sees no installed package, nor pip
    bare.chmod(0o755)
    text = failure(tmp_path / "table.md", "--tiny", PYTHON=str(bare), WHEELS=str(tmp_path))
    assert "| packages | | | FAILED: pip does not install torch" in text
    assert "No module named pip" in text


def test_every_check_runs_on_a_cpu_and_is_a_row_of_the_table(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [SCRIPT, table, "--device", "cpu", "--tiny"], env=environment, capture_output=True, text=True, check=False
    )
    text = table.read_text("utf8")
    assert done.returncode == 0, done.stderr + text
    assert "FAILED" not in text
    assert "tiny shapes: the numbers say nothing about speed" in text
    for told in ("vectors of 16 texts, float32", "greedy answers, pplug llama", "losses of 10 training steps"):
        assert f"| {told}" in text
    for told in ("encoder, MiniLM", "training, Llama 3.2 1B", "engine, Llama 3.2 1B", "engine, Qwen 3 8B"):
        assert f"| {told}" in text
    assert text.count("\n| ") == text.count(" | ok |") + text.count(" | measured |") + text.count("not run") + 1
