"""What the README and docs/quality.md show is run."""

import re
from pathlib import Path

import pytest
import typer.main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf8")
QUALITY = (ROOT / "docs/quality.md").read_text(encoding="utf8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = re.findall(r"^    pplug (.+?)(?:\s+#.*)?$", README + QUALITY, re.M)


def test_reading_the_tables_without_pplug_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path /= "my data/user_id=zzz"  # neither the space nor the name may matter
    (code,) = [block for block in PYTHON if "DeltaTable" in block]
    import pyarrow as pa
    from deltalake import write_deltalake

    persona = pa.table({"user_id": ["ann"], "item_count": [3], "counts": [[1, 2]]})
    write_deltalake(str(tmp_path / "warehouse/persona_vectors"), persona)
    for output in ("old", "new"):  # the second replaces the first, whose file stays on disk
        rows = pa.table({"user_id": ["ann"], "output": [output]})
        write_deltalake(str(tmp_path / "warehouse/outputs"), rows, mode="overwrite")
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "warehouse/outputs").is_dir()
    exec(compile(code, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "new" in shown
    assert "old" not in shown
    assert "ann" in shown
    assert "zzz" not in shown


def test_the_python_example_runs_on_the_packaged_models(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for block in PYTHON if "TextEncoder" in block]
    exec(compile(code, "README.md", "exec"), {})
    assert "Paris" in capsys.readouterr().out


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_shown_exists_with_its_options(line: str) -> None:
    from pipelines.cli import app

    command = typer.main.get_command(app)
    words = line.split()
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # pyright: ignore[reportAttributeAccessIssue]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert command.name != "root"
    assert {word for word in words if re.fullmatch("--?[a-z-]+", word)} <= flags | {"--help"}
