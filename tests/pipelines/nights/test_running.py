"""One run of a night at a time; a run that was killed is found by the next one, and told once."""

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from embedder.errors import PplugError
from pipelines.nights.runs import Excludes, list_runs, recorded_run, utc_now
from pipelines.nights.shards import Manifest, ShardLog
from pipelines.store import leases
from pipelines.store.leases import AlreadyRunning, Fenced, Lease, acquire, kept_alive, runs_under_way
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

NIGHT = date(2026, 11, 1)
LIFE_SECONDS = 2.0
"""Of the leases in these tests; longer than a busy machine keeps a thread waiting."""


@pytest.fixture(autouse=True)
def short_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.store.leases.LIFE_SECONDS", LIFE_SECONDS)


def give_up_for_dead() -> None:
    """Wait until the clocks say that a killed run is dead."""
    time.sleep(LIFE_SECONDS)


def hold(root: Path, job: str, ds: date, seconds: float, excludes: Excludes) -> None:
    """Run in a process of its own: a run that does nothing for a while."""
    leases.LIFE_SECONDS = LIFE_SECONDS
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
    give_up_for_dead()
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
    assert runs_under_way(warehouse.store) == []


def test_the_tokens_of_a_killed_run_are_those_of_the_shards_it_finished(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    with another_process(tmp_path, "encode") as process:
        (begun,) = runs_under_way(warehouse.store)
        for run_id, night, tokens in ((begun.lease.run_id, NIGHT, 7), ("earlier", NIGHT, 1000)):
            for index in (0, 1):
                log = ShardLog(warehouse.store, "encode", night, f"work-of-{run_id}")
                log.add(Manifest(index, run_id, 1, 1, 0, tokens, 0.5))
        process.kill()
        process.join()
    give_up_for_dead()
    with recorded_run(warehouse, "generate", NIGHT, {}, Excludes.SAME_NIGHT):
        pass
    with connect(warehouse) as db:
        found = db.sql("select job, status, tokens from runs order by job").fetchall()
    assert found == [("encode", "killed", 14), ("generate", "done", 0)]


@pytest.mark.parametrize("content", [b"", b"{"])
def test_a_lease_that_a_power_cut_left_unfinished_stops_nobody(content: bytes, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for name in (f"encode-{NIGHT}/00000001.json", f"encode-{NIGHT}/x.beat", "other/00000007.json"):
        warehouse.store.put(f"_running/{name}", content)
    with recorded_run(warehouse, "encode", NIGHT, {}, Excludes.SAME_NIGHT):
        pass
    assert statuses(warehouse) == [("encode", "done")]


def test_a_run_that_was_taken_over_records_nothing_and_leaves_the_new_lease_alone(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)

    def be_taken_over() -> None:
        with recorded_run(warehouse, "encode", NIGHT, {}, Excludes.SAME_NIGHT):
            (held,) = runs_under_way(warehouse.store)
            warehouse.store.delete([held.lease.name])
            acquire(warehouse.store, f"encode-{NIGHT}", dict(held.row) | {"run_id": "new"})

    with pytest.raises(Fenced, match="another has taken over"):
        be_taken_over()
    assert statuses(warehouse) == []
    assert [other.lease.run_id for other in runs_under_way(warehouse.store)] == ["new"]


def row_of(run_id: str) -> dict[str, Any]:
    return {"run_id": run_id, "job": "encode", "ds": NIGHT, "started_at": utc_now().isoformat()}


@pytest.mark.parametrize(("after", "is_somebody_there"), [("list", False), ("get", True)])
def test_who_looked_before_another_began_does_not_begin_beside_it(
    after: str, is_somebody_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.store.leases.LIFE_SECONDS", 0.5)
    store = Warehouse(tmp_path).store
    there = [acquire(store, "encode", row_of("dead"))[0]] if is_somebody_there else []
    look, looks = getattr(store, after), count()

    def look_slowly(_: Any, name: str) -> Any:
        found = look(name)
        if next(looks) == 0:  # what was found is old by the time it is returned
            for lease in there:
                lease.release()
            acquire(store, "encode", row_of("first"))
        return found

    monkeypatch.setattr(type(store), after, look_slowly)
    with kept_alive(Lease(store, "encode", 1, "first")), pytest.raises(AlreadyRunning):
        acquire(store, "encode", row_of("second"))
    assert [other.lease.run_id for other in runs_under_way(store)] == ["first"]


def test_many_at_once_get_one_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.store.leases.LIFE_SECONDS", 30.0)
    monkeypatch.setattr("pipelines.store.leases.BEATS", 60)
    store = Warehouse(tmp_path).store
    got, refused = list[str](), list[BaseException]()

    def take(number: int) -> None:
        try:
            lease, _ = acquire(store, "encode", row_of(f"r{number}"))
            with kept_alive(lease):
                got.append(lease.run_id)
                is_over.wait()
        except AlreadyRunning as error:
            refused.append(error)
        finally:
            ended.release()

    is_over, ended = threading.Event(), threading.Semaphore(0)
    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    refused_in_time = [ended.acquire(timeout=60) for _ in range(4)]
    is_over.set()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused), all(refused_in_time)) == (1, 4, True)


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (PplugError("no: do"), "failed", "no: do"),
        (ValueError("x"), "failed", "ValueError at pipelines/nights/test_running.py:LINE"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt at pipelines/nights/test_running.py:LINE"),
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
    (said, error_line), last = found
    assert (said, re.sub(r":\d+$", ":LINE", error_line), last) == (status, told, ("done", None))
