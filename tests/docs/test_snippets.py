"""The Python that pages of docs/ show beside a warehouse that was filled without pplug, or with the packaged models."""

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pages import blocks


def test_reading_the_tables_without_pplug_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path /= "my data/user_id=zzz"  # neither the space nor the name may matter
    (code,) = [block for block in blocks("docs/tables.md", "python") if "DeltaTable" in block]
    for output in ("old", "new"):  # the second replaces the first, whose file stays on disk
        rows = pa.table({"user_id": ["ann"], "output": [output], "score": [-0.25]})
        write_deltalake(str(tmp_path / "warehouse/outputs"), rows, mode="overwrite")
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "warehouse/outputs").is_dir()
    exec(compile(code, "tables.md", "exec"), {})
    shown = capsys.readouterr().out
    assert shown.count("new") == 2
    assert "-0.25" in shown
    assert "old" not in shown
    assert "zzz" not in shown


def test_the_python_examples_run_on_the_packaged_models(capsys: pytest.CaptureFixture[str]) -> None:
    for code in blocks("docs/python.md", "python"):
        exec(compile(code, "python.md", "exec"), {})
    shown = capsys.readouterr().out
    assert shown.startswith("(2, 384) ")
    assert "Paris" in shown
