"""The checks for a GPU run without one, in tiny shapes."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

SCRIPT = Path(__file__).parent / "check.sh"


def checked(table: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    return subprocess.run(
        [SCRIPT, table, *words], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def failure(table: Path, *words: str, **environment: str) -> str:
    """Run the script where it must fail; its table."""
    table.write_text("of an earlier run", "utf8")
    done = checked(table, *words, **environment)
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


@pytest.mark.parametrize("module", ["vllm", "torch"])
def test_vllm_is_installed_apart_and_checked_last(module: str, tmp_path: Path) -> None:
    (tmp_path / "vllm.txt").write_text("vllm==1\n", "utf8")
    with ZipFile(tmp_path / "vllm-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}/__init__.py", "raise ImportError('a stand-in')\n")
        wheel.writestr("vllm-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: vllm\nVersion: 1\n")
        wheel.writestr("vllm-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("vllm-1.dist-info/RECORD", "")
    words = ("--device", "cpu", "--tiny", "--only", "vectors")
    environment = {"PYTHON": sys.executable, "WHEELS": str(tmp_path)}
    text = failure(tmp_path / "table.md", *words, **environment, VLLM_REQUIREMENTS=str(tmp_path / "vllm.txt"))
    assert "| vectors of 16 texts, float32" in text
    if module == "torch":
        assert text.splitlines()[-1] == "| vLLM | | | FAILED: check.py ended with 1 before the first one |"
        return
    assert [line.split("|")[1].strip() for line in text.splitlines()[-2:]] == ["vLLM, small", "vLLM, large"]
    assert text.count("FAILED: ImportError: a stand-in") == 2


def test_a_vllm_that_cannot_be_installed_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "vllm.txt").write_text("vllm==2\n", "utf8")
    words = ("--device", "cpu", "--tiny", "--only", "vectors")
    environment = {"PYTHON": sys.executable, "WHEELS": str(tmp_path), "VLLM_REQUIREMENTS": str(tmp_path / "vllm.txt")}
    done = checked(tmp_path / "table.md", *words, **environment)
    assert done.returncode == 0, done.stderr
    last = (tmp_path / "table.md").read_text("utf8").splitlines()[-1]
    assert last.startswith("| vLLM | | | not run: pip does not install vllm.txt: ERROR: No matching distribution")


def test_every_check_runs_on_a_cpu_and_is_a_row_of_the_table(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    done = checked(table, "--device", "cpu", "--tiny", PYTHON=sys.executable, OMP_NUM_THREADS="1")
    text = table.read_text("utf8")
    assert done.returncode == 0, done.stderr + text
    assert "FAILED" not in text
    assert "tiny shapes: the numbers say nothing about speed" in text
    for told in ("vectors of 16 texts, float32", "greedy answers, pplug llama", "losses of 10 training steps"):
        assert f"| {told}" in text
    for told in ("encoder, MiniLM", "training, Llama 3.2 1B", "engine, Llama 3.2 1B", "engine, Qwen 3 8B"):
        assert f"| {told}" in text
    assert text.count("\n| ") == text.count(" | ok |") + text.count(" | measured |") + text.count("not run") + 1
