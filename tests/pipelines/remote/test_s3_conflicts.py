"""Two of everything on an object store: publishers of a night, workers at a shard, and workers that die."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import pytest
from night_of_letters import NIGHT, LettersJob, letters, written_users

from embedder.errors import PplugError
from pipelines.nights import working
from pipelines.nights.job import Night
from pipelines.nights.night import run_night
from pipelines.nights.runners import Runner
from pipelines.nights.shards import Shard
from pipelines.store.stored import open_store
from pipelines.tables.commits import CommitConflict
from pipelines.tables.warehouse import Warehouse

pytestmark = pytest.mark.beam

USERS = {"ann": 2, "bob": 3, "cid": 1, "dan": 4}
"""How many items each has; a shard holds four."""


@pytest.fixture
def warehouse(tmp_path: Path, s3_options: dict[str, str]) -> Warehouse:
    return letters(Warehouse(f"s3://bucket/{tmp_path.name}", s3_options), USERS)


@dataclass(frozen=True)
class Twice(Runner):
    """Two workers at every shard, who finish at the same moment."""

    def run(self, night: Night, shards: Sequence[Shard]) -> None:
        for shard in shards:
            barrier = Barrier(2)

            def finish(_: int, shard: Shard = shard, barrier: Barrier = barrier) -> object:
                computed = working.compute(night, working.read(night, shard) or (shard, []))
                barrier.wait()
                return working.write(night, computed)

            with ThreadPoolExecutor(2) as workers:
                ours, theirs = workers.map(finish, range(2))
            assert ours == theirs, "the manifest that was first counts for both"


@dataclass(frozen=True)
class Overtaken(Runner):
    """Another run publishes the night meanwhile."""

    def run(self, night: Night, shards: Sequence[Shard]) -> None:
        super().run(night, shards)
        night.warehouse.publish("tasks", NIGHT, "other", [])


def test_of_two_workers_at_a_shard_the_first_counts(warehouse: Warehouse) -> None:
    record = run_night(LettersJob(), warehouse, NIGHT, runner=Twice())
    assert (record.rows_out, written_users(warehouse)) == (10, sorted(USERS))
    data = [entry.name for entry in warehouse.store.list("tasks/ds=2026-11-02")]
    assert sorted(data) == sorted(file.name for file in warehouse.live("tasks")), "nothing of the other is left"


def test_a_run_that_was_overtaken_publishes_nothing(warehouse: Warehouse) -> None:
    with pytest.raises(CommitConflict, match="written by another run meanwhile: run the command again"):
        run_night(LettersJob(), warehouse, NIGHT, runner=Overtaken())
    assert written_users(warehouse) == []
    run_night(LettersJob(), warehouse, NIGHT)
    assert written_users(warehouse) == sorted(USERS)


def test_of_many_publishers_at_once_one_wins(warehouse: Warehouse) -> None:
    run_night(LettersJob(), warehouse, NIGHT)
    since, files, barrier = warehouse.counts("tasks", NIGHT), warehouse.live("tasks"), Barrier(4)

    def publish(number: int) -> str:
        barrier.wait()
        try:
            warehouse.publish("tasks", NIGHT, f"r{number}", files[number % len(files) :], since)
        except CommitConflict:
            return "lost"
        return written_users(warehouse)[0]

    with ThreadPoolExecutor(4) as publishers:
        ended = list(publishers.map(publish, range(4)))
    assert sorted(ended)[1:] == ["lost"] * 3
    (winner,) = [each for each in ended if each != "lost"]
    assert written_users(warehouse)[0] == winner


def test_a_killed_process_ends_the_run_and_the_next_goes_on(warehouse: Warehouse) -> None:
    with pytest.raises(PplugError, match=r"^worker [12] of 2 was killed, .*: run the command again"):
        run_night(LettersJob(fails_at="kill dan"), warehouse, NIGHT, runner=Runner(2))
    assert written_users(warehouse) == []
    record = run_night(LettersJob(), warehouse, NIGHT, runner=Runner(2))
    assert (record.rows_out, written_users(warehouse)) == (10, sorted(USERS))


def test_a_store_without_conditional_put_is_refused_in_one_line(s3_options: dict[str, str]) -> None:
    store = open_store("s3://bucket/plain", s3_options | {"AWS_CONDITIONAL_PUT": "disabled"})
    with pytest.raises(PplugError, match=r"^s3://bucket/plain cannot be used: it cannot put[^\n]*$"):
        store.put_new("a", b"1")
    assert store.get("a") is None
