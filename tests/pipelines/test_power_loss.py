"""A command that has returned 0 has its rows on the disk; what a power loss leaves of others is found and named."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from embedder.errors import PplugError
from pipelines.cli import main
from pipelines.nights.runs import Excludes, list_runs, recorded_run
from pipelines.tables.retention import rewrite_log
from pipelines.tables.schema import file_schema
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

NIGHT = date(2026, 11, 1)
ROOT = Path(__file__).parent.parent.parent
ITEM = (
    '{"user_id": "ann", "item_id": "1", "kind": "LaMP_4", "posted_at": "2026-10-01", "text": "rain", "output": "R"}\n'
)

COMMANDS = """
import sys
from datetime import date
from pathlib import Path
from pipelines.cli import main
from pipelines.tables.retention import rewrite_log
from pipelines.tables.warehouse import Warehouse

folder, items = sys.argv[1:]
place = ["--warehouse", folder + "/deep/w"]
assert main(["ingest", "histories", items, "--ds", "2026-11-01", *place]) == 0
assert main(["ingest", "tasks", items, "--ds", "2026-11-01", "--max-reject-rate", "1", *place]) == 0
rewrite_log(Warehouse(Path(folder, "deep/w")), "histories")
"""


def called(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


@contextmanager
def mounted(image: Path, folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir()
    called("mount", "-o", ",".join(("loop", *options)), image, folder)
    try:
        yield folder
    finally:
        called("umount", folder)


def test_what_was_acknowledged_is_in_an_image_of_the_disk(tmp_path: Path) -> None:
    """The image is what the disk holds at the moment the command returns: nothing that was not written through."""
    image, items = tmp_path / "image", tmp_path / "items.jsonl"
    items.write_text(ITEM)
    try:
        image.touch()
        called("truncate", "--size=64M", image)
        called("mkfs.ext4", "-q", image)
        with mounted(image, tmp_path / "probe"):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine lets us mount no image: {error}")
    with mounted(image, tmp_path / "disk", "commit=300") as disk:  # nothing is written by itself meanwhile
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, str(disk), str(items)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        shutil.copyfile(image, tmp_path / "after")
        assert done.returncode == 0, done.stderr
    with mounted(tmp_path / "after", tmp_path / "found") as found, connect(Warehouse(found / "deep" / "w")) as db:
        assert db.sql("select user_id, text from histories").fetchall() == [("ann", "rain")]
        assert db.sql("select count(*) from rejects").fetchall() == [(1,)]
        jobs = db.sql("select job, status from runs order by started_at").fetchall()
        assert jobs == [("ingest_histories", "done"), ("ingest_tasks", "done")]


def rejects(row_id: str) -> pa.Table:
    row: dict[str, Any] = {"job": "j", "row_id": row_id, "reason": "r", "detail": "", "run_id": "r", "source": "s"}
    return pa.Table.from_pylist([row], schema=file_schema("rejects"))


def kept(warehouse: Warehouse) -> list[str]:
    with connect(warehouse, {"rejects": warehouse.live("rejects")}) as db:
        return [row[0] for row in db.sql("select row_id from rejects order by all").fetchall()]


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("left", [b"", b"\0" * 300, b"{"])
def test_a_commit_that_is_empty_or_damaged_is_named_and_can_be_given_up(
    left: bytes, lost: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = Warehouse(tmp_path)
    for row_id in ("one", "two"):  # versions 1 and 2
        warehouse.append("rejects", NIGHT, "r", rejects(row_id))
    entry = warehouse.folder("rejects") / "_delta_log" / f"{lost:020d}.json"
    entry.write_bytes(left)
    for command in (["check"], ["query", "reject_reasons"]):
        assert main([*command, "--warehouse", str(tmp_path)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{entry} is empty or damaged, as a power loss leaves it: restore it from a backup, or")
    with pytest.raises(PplugError, match="is empty or damaged"):
        warehouse.append("rejects", NIGHT, "r", rejects("three"))
    entry.write_text('{"commitInfo":{}}')
    assert kept(warehouse) == [["one", "two"][2 - lost]]
    warehouse.append("rejects", NIGHT, "r", rejects("three"))
    assert len(kept(warehouse)) == 2


@pytest.mark.parametrize("name", ["_last_checkpoint", "checkpoint"])
def test_a_checkpoint_that_is_empty_is_named(name: str, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.append("rejects", NIGHT, "r", rejects("one"))
    rewrite_log(warehouse, "rejects")
    path = max((warehouse.folder("rejects") / "_delta_log").glob(f"*{name}*" if name[0] == "_" else "0*.checkpoint*"))
    path.write_bytes(b"")
    if name == "_last_checkpoint":  # it only says where to look first
        assert kept(warehouse) == ["one"]
        return
    with pytest.raises(PplugError, match="is empty or damaged, as a power loss leaves it") as told:
        kept(warehouse)
    assert str(path) in str(told.value)


@pytest.mark.parametrize("left", [b"", b"\0" * 90, b"null", b"{}", b'{"run_id": "x"}'])
def test_a_marker_that_is_empty_or_damaged_stops_nothing(
    left: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse = Warehouse(tmp_path)
    for what in (f"encode-{NIGHT}", "other"):
        warehouse.store.put(f"_running/{what}/00000001.json", left)
    assert list(list_runs(warehouse)) == []
    with recorded_run(warehouse, "encode", NIGHT, {}, Excludes.SAME_NIGHT):
        pass
    assert [run["status"] for run in list_runs(warehouse)] == ["done"]
    assert warehouse.store.list("_running") == []
    assert caplog.text.count("is empty or damaged, as a power loss leaves it") == 2
