"""A warehouse of which a file is damaged or gone: whatever needs it says so in one line."""

import json
import shutil
from pathlib import Path

import pytest
from small_night import ITEMS, NIGHT

from pipelines.cli import main
from pipelines.ingest import ingest_histories
from pipelines.tables.warehouse import Warehouse


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    file = folder / "items.jsonl"
    file.write_text("\n".join(json.dumps(item) for item in [*ITEMS, {"user_id": "ann"}]), encoding="utf8")
    ingest_histories(Warehouse(folder / "warehouse"), [file], NIGHT, {"note"})
    return folder


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (["sql", "select any_value(text) from histories"], "histories/ds=*/*.parquet"),
        (["query", "reject_reasons"], "rejects/ds=*/*.parquet"),
        (["forget", "ann"], "histories/ds=*/*.parquet"),
        (["runs"], "runs/_delta_log/*0.json"),
        (["check"], "histories/_delta_log/*1.json"),
        (["query", "night_summary"], "runs/ds=*/*.parquet"),
    ],
)
@pytest.mark.parametrize("is_gone", [True, False])
def test_a_damaged_file_is_told_in_one_line(
    whole: Path, tmp_path: Path, command: list[str], place: str, is_gone: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(whole / "warehouse", tmp_path / "warehouse")
    [path] = root.glob(place)
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink() if is_gone else path.write_bytes(half)
    capfd.readouterr()
    code, said = main([*command, "--warehouse", str(root)]), capfd.readouterr()
    if is_gone and command[0] in ("check", "forget"):  # the version before is whole; what is gone tells of nobody
        return
    assert code == 1
    assert said.err.count("\n") == 1
    assert "restore it" in said.err
    assert "not expected" not in said.err
