"""One run of a night at a time; a run that was killed is found by the next one, and told once."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from embedder.errors import PplugError
from pipelines.nights.overview import list_runs
from pipelines.nights.running import AlreadyRunning, running_folder
from pipelines.nights.runs import Excludes, recorded_run
from pipelines.nights.shards import Receipt, ShardFolder, cut_shards
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

NIGHT = date(2026, 11, 1)


def hold(root: Path, job: str, ds: date, seconds: float, excludes: Excludes) -> None:
    """Run in a process of its own: a run that does nothing for a while."""
    with recorded_run(Warehouse(root), job, ds, {"setting": 7}, excludes):
        (root / f"{job}-{ds}.started").touch()
        time.sleep(seconds)


@contextmanager
def another_process(
    root: Path, job: str, ds: date = NIGHT, seconds: float = 600, excludes: Excludes = Excludes.SAME_NIGHT
) -> Iterator[Any]:
    """A run that another process is at."""
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(root, job, ds, seconds, excludes))
    process.start()
    started = root / f"{job}-{ds}.started"
    while not started.exists():
        assert process.is_alive()
        time.sleep(0.05)
    started.unlink()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def statuses(warehouse: Warehouse) -> list[tuple[str, str]]:
    with connect(warehouse) as db:
        return db.sql("select job, status from runs order by started_at, job").fetchall()


def test_the_second_run_of_a_night_is_refused_and_other_nights_go_on(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    with another_process(tmp_path, "encode"):
        with (
            pytest.raises(
                AlreadyRunning, match=r"^encode ds=2026-11-01 is running already \(run .*: wait for it"
            ) as told,
            recorded_run(warehouse, "encode", NIGHT, {}, Excludes.SAME_NIGHT),
        ):
            pytest.fail("it must not begin")
        assert told.value.exit_code == 1
        for job, ds in (("encode", NIGHT + timedelta(days=1)), ("generate", NIGHT)):
            with recorded_run(warehouse, job, ds, {}, Excludes.SAME_NIGHT):
                pass
        assert statuses(warehouse) == [("encode", "done"), ("generate", "done")]
        running = next(list_runs(warehouse))
        assert (running["job"], running["ds"], running["status"]) == ("encode", NIGHT, "running")


def test_a_killed_run_is_recorded_once_by_whatever_runs_next(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    with (
        another_process(tmp_path, "encode") as process,
        another_process(tmp_path, "train", excludes=Excludes.NOTHING) as other,
    ):
        for each in (process, other):
            os.kill(each.pid, signal.SIGKILL)
            each.join()
    assert [run["status"] for run in list_runs(warehouse)] == ["killed", "killed"]
    for _ in range(2):
        with recorded_run(warehouse, "encode", NIGHT, {}, Excludes.SAME_NIGHT):
            pass
    assert sorted(statuses(warehouse)) == [
        ("encode", "done"),
        ("encode", "done"),
        ("encode", "killed"),
        ("train", "killed"),
    ]
    killed = [run for run in list_runs(warehouse) if run["status"] == "killed"]
    assert all(run["config"] == '{"setting": 7}' and run["error"].startswith("killed") for run in killed)
    assert all(0 <= run["seconds"] < 600 for run in killed)
    assert list(running_folder(warehouse).iterdir()) == []


def test_the_tokens_of_a_killed_run_are_those_of_the_shards_it_finished(tmp_path: Path) -> None:
    warehouse, shards = Warehouse(tmp_path), cut_shards([("ann", 1), ("bob", 1)], 1)
    earlier, ours = (ShardFolder.of(warehouse, "encode", NIGHT, name) for name in ("earlier", "ours"))
    other_night = ShardFolder.of(warehouse, "encode", NIGHT + timedelta(days=1), "ours")
    earlier.write(shards[0], {}, Receipt(0, 1, 1, 0, 1000, 0.5))
    os.utime(earlier.path / "00000.json", (0, 0))
    with another_process(tmp_path, "encode") as process:
        for folder, tokens in ((ours, 7), (other_night, 100)):
            for shard in shards:
                folder.write(shard, {}, Receipt(shard.index, 1, 1, 0, tokens, 0.5))
        process.kill()
        process.join()
    with recorded_run(warehouse, "generate", NIGHT, {}, Excludes.SAME_NIGHT):
        pass
    with connect(warehouse) as db:
        found = db.sql("select job, status, tokens from runs order by job").fetchall()
    assert found == [("encode", "killed", 14), ("generate", "done", 0)]


@pytest.mark.parametrize("ending", ["lock", "tmp"])
def test_what_a_run_leaves_that_is_killed_before_its_marker_is_there_goes_with_the_next(
    ending: str, tmp_path: Path
) -> None:
    warehouse = Warehouse(tmp_path)
    running_folder(warehouse).mkdir(parents=True)
    (running_folder(warehouse) / f"killed.{ending}").write_text("{")
    with recorded_run(warehouse, "encode", NIGHT, {}, Excludes.SAME_NIGHT):
        pass
    assert list(running_folder(warehouse).iterdir()) == []
    assert statuses(warehouse) == [("encode", "done")]


def test_a_run_killed_after_its_record_is_not_recorded_again(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    with recorded_run(warehouse, "encode", NIGHT, {}, Excludes.SAME_NIGHT):
        (marker,) = running_folder(warehouse).glob("*.json")
        text = marker.read_text()
    marker.write_text(text)  # as if the kill came between the record and the end of the marker
    with recorded_run(warehouse, "generate", NIGHT, {}, Excludes.SAME_NIGHT):
        pass
    assert statuses(warehouse) == [("encode", "done"), ("generate", "done")]


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (PplugError("no: do"), "failed", "no: do"),
        (ValueError("x"), "failed", "ValueError: x"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt: "),
    ],
)
def test_a_run_that_ends_badly_is_recorded_and_lets_the_next_one_in(
    error: BaseException, status: str, told: str, tmp_path: Path
) -> None:
    warehouse = Warehouse(tmp_path)
    with pytest.raises(type(error)), recorded_run(warehouse, "encode", NIGHT, {}, Excludes.SAME_NIGHT):
        raise error
    with recorded_run(warehouse, "encode", NIGHT, {}, Excludes.SAME_NIGHT):
        pass
    with connect(warehouse) as db:
        found = db.sql("select status, error from runs order by started_at").fetchall()
    assert found == [(status, told), ("done", None)]
