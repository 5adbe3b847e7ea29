"""A job's night is followed from outside, resumed, checked and fenced; the job here only counts letters."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pytest
from night_of_letters import NIGHT, LettersJob, letters, written_users

from embedder.errors import InputMissing, PplugError, UsageError
from llm_jobs.prompts import PromptRefused
from pipelines.nights.job import Night
from pipelines.nights.night import run_night
from pipelines.nights.published import NightInputs
from pipelines.nights.runners import Runner, beam_options
from pipelines.nights.shards import Shard
from pipelines.store.leases import Fenced, runs_under_way
from pipelines.tables.commits import CommitConflict
from pipelines.tables.warehouse import Warehouse

pytestmark = pytest.mark.beam

USERS = {"ann": 2, "bob": 3, "cid": 1, "dan": 4}
"""How many items each has; a shard holds four."""


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return letters(Warehouse(tmp_path / "w"), USERS)


@dataclass(frozen=True)
class First(Runner):
    """A runner that loses all shards but the first ones."""

    count: int = 1

    def run(self, night: Night, shards: Sequence[Shard]) -> None:
        super().run(night, shards[: self.count])


@dataclass(frozen=True)
class Meddling(Runner):
    """A runner during which something else happens."""

    meddle: Callable[[Night], None] = lambda night: None
    is_before: bool = False

    def run(self, night: Night, shards: Sequence[Shard]) -> None:
        if self.is_before:
            self.meddle(night)
        super().run(night, shards)
        if not self.is_before:
            self.meddle(night)


def shard_files(warehouse: Warehouse) -> list[str]:
    return [entry.name for entry in warehouse.store.list("tasks") if NIGHT.isoformat() in entry.name]


def test_a_night_is_every_row_once_and_leaves_nothing_behind(warehouse: Warehouse) -> None:
    record = run_night(LettersJob(), warehouse, NIGHT)
    assert written_users(warehouse) == sorted(USERS)
    assert (record.rows_in, record.rows_out, record.rows_rejected, record.tokens) == (10, 10, 0, 40)
    assert [entry.name for entry in warehouse.store.list() if entry.name.startswith("_")] == []
    again = run_night(LettersJob(), warehouse, NIGHT)
    assert (again.rows_out, again.tokens, again.config["published_by"]) == (10, 0, record.run_id)


@pytest.mark.parametrize("counts", [False, True])
def test_progress_is_told_while_the_shards_are_at_work(counts: bool, warehouse: Warehouse) -> None:
    told, has_told = list[tuple[str, int, int]](), threading.Event()

    def progress(label: str, done: int, total: int) -> None:
        told.append((label, done, total))
        if done:
            has_told.set()

    LettersJob.waits_for[:] = [has_told]
    run_night(LettersJob(wait=True, counts=counts), warehouse, NIGHT, progress)
    assert told[-1] == ("letters", 10, 10)
    assert told == sorted(told)
    assert any(0 < done < 10 for _, done, _ in told)


def test_the_next_run_goes_on_from_the_finished_shards(warehouse: Warehouse) -> None:
    with pytest.raises(PplugError, match="2 of 3 shards are unfinished: run the command again"):
        run_night(LettersJob(), warehouse, NIGHT, runner=First())
    assert written_users(warehouse) == []
    record = run_night(LettersJob(), warehouse, NIGHT)
    assert (record.rows_out, record.tokens) == (10, 32), "ann's shard was there"
    assert written_users(warehouse) == sorted(USERS)


@dataclass(frozen=True)
class Pinned(LettersJob):
    """Its rows depend, as it says, on the same files, whatever is brought in for a later night."""

    def inputs(self, warehouse: Warehouse, ds: date) -> NightInputs:
        return replace(super().inputs(warehouse, ds), files=())


def test_finished_shards_count_only_where_users_are_cut_as_they_were(warehouse: Warehouse) -> None:
    with pytest.raises(PplugError, match="unfinished"):
        run_night(Pinned(), warehouse, NIGHT, runner=First())
    letters(warehouse, {"ann": 1})  # one item more: another user begins the second shard
    record = run_night(Pinned(), warehouse, NIGHT)
    assert record.rows_out == record.rows_in == 11
    assert written_users(warehouse) == sorted(USERS)


def other_bytes(warehouse: Warehouse, name: str) -> None:
    warehouse.store.put(name, b"x" * len(warehouse.store.get(name) or b""))


@pytest.mark.parametrize("damage", ["gone", "empty", "swapped", "manifest empty", "manifest of nothing"])
def test_a_finished_shard_that_is_not_as_its_manifest_says_is_done_again(damage: str, warehouse: Warehouse) -> None:
    with pytest.raises(PplugError, match="unfinished"):
        run_night(LettersJob(), warehouse, NIGHT, runner=First())
    (data,) = [name for name in shard_files(warehouse)]
    (manifest,) = [entry.name for entry in warehouse.store.list("_shards") if entry.name.endswith(".json")]
    if damage == "gone":
        warehouse.store.delete([data])
    elif damage == "swapped":
        other_bytes(warehouse, data)
    else:
        name = manifest if damage.startswith("manifest") else data
        warehouse.store.put(name, b"{}" if "nothing" in damage else b"")
    record = run_night(LettersJob(), warehouse, NIGHT)
    assert (record.rows_out, record.tokens) == (10, 40)
    assert written_users(warehouse) == sorted(USERS)


def test_of_two_workers_at_a_shard_the_first_manifest_counts_and_no_file_is_left(warehouse: Warehouse) -> None:
    @dataclass(frozen=True)
    class Twice(Runner):
        def run(self, night: Night, shards: Sequence[Shard]) -> None:
            threads = [threading.Thread(target=Runner().run, args=(night, shards)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    run_night(LettersJob(), warehouse, NIGHT, runner=Twice())
    assert written_users(warehouse) == sorted(USERS)
    assert len(shard_files(warehouse)) == 3


@pytest.mark.parametrize("is_before", [True, False])
def test_a_run_that_was_given_up_for_dead_writes_and_publishes_nothing(is_before: bool, warehouse: Warehouse) -> None:
    def bury(night: Night) -> None:
        warehouse.store.delete([night.lease.name])

    with pytest.raises(Fenced, match="another has taken over"):
        run_night(LettersJob(), warehouse, NIGHT, runner=Meddling(meddle=bury, is_before=is_before))
    assert written_users(warehouse) == []
    if is_before:
        assert shard_files(warehouse) == []


def test_of_two_publishers_the_first_wins(warehouse: Warehouse) -> None:
    def publish_first(night: Night) -> None:
        warehouse.publish("tasks", NIGHT, "other", [])

    with pytest.raises(CommitConflict, match="written by another run meanwhile: run the command again"):
        run_night(LettersJob(), warehouse, NIGHT, runner=Meddling(meddle=publish_first))
    assert written_users(warehouse) == []


@pytest.mark.parametrize("where", ["load", "read", "compute", "shape"])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_worker_is_the_same_everywhere(where: str, workers: int, warehouse: Warehouse) -> None:
    if workers > 1 and where != "compute":
        pytest.skip("processes take long to start")
    with pytest.raises(InputMissing, match=r"^no such model: get one$") as told:
        run_night(LettersJob(fails_at=where), warehouse, NIGHT, runner=Runner(workers))
    assert told.value.exit_code == 4


def test_what_a_library_says_of_a_text_is_in_no_error_and_no_file(warehouse: Warehouse) -> None:
    with pytest.raises(PplugError, match="a worker failed \\(ValueError at ") as told:
        run_night(LettersJob(fails_at="compute", error=ValueError("dear diary")), warehouse, NIGHT)
    assert "diary" not in str(told.value)
    assert not [path for path in warehouse.root.rglob("*") if path.is_file() and b"diary" in path.read_bytes()]


@pytest.mark.parametrize(
    "error", [PplugError("a"), UsageError("b"), InputMissing("c"), PromptRefused("prompt_too_long", "9 tokens of 8")]
)
def test_the_error_of_a_worker_comes_out_as_it_was_raised(error: PplugError, warehouse: Warehouse) -> None:
    with pytest.raises(type(error)) as raised:
        run_night(LettersJob(fails_at="compute", error=error), warehouse, NIGHT)
    assert (type(raised.value), str(raised.value)) == (type(error), str(error))
    assert raised.value.args == error.args


def test_a_killed_worker_ends_the_run_with_what_to_do_and_the_next_goes_on(warehouse: Warehouse) -> None:
    with pytest.raises(PplugError, match=r"^worker [12] of 2 was killed, .*: run the command again"):
        run_night(LettersJob(fails_at="kill"), warehouse, NIGHT, runner=Runner(2))
    assert written_users(warehouse) == []
    record = run_night(LettersJob(), warehouse, NIGHT)
    assert written_users(warehouse) == sorted(USERS)
    assert record.rows_out == 10


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--runner=DaskRunner"], "loses rows"),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=2"], "use --workers N"),
        (["--no_such_option=1"], "has no option --no_such_option"),
    ],
)
def test_options_of_beam_that_would_go_wrong_are_refused(flags: list[str], told: str) -> None:
    with pytest.raises(PplugError, match=told):
        beam_options(flags)


def test_nobody_is_under_way_afterwards(warehouse: Warehouse) -> None:
    run_night(LettersJob(), warehouse, NIGHT)
    assert runs_under_way(warehouse.store) == []
