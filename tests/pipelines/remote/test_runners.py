"""A night on workers that share nothing with the driver but the installed package and the warehouse."""

import json
from pathlib import Path

import pytest
from night_of_letters import NIGHT, LettersJob, letters, written_users

from embedder.errors import InputMissing, PplugError
from pipelines.nights import runners
from pipelines.nights.night import run_night
from pipelines.nights.runners import Runner
from pipelines.tables.warehouse import Warehouse

pytestmark = pytest.mark.beam

USERS = {"ann": 2, "bob": 3, "cid": 1, "dan": 4}

Flags = tuple[str, ...]


@pytest.fixture
def warehouse(s3_options: dict[str, str], tmp_path: Path) -> Warehouse:
    return letters(Warehouse(f"s3://bucket/{tmp_path.name}", s3_options), USERS)


def manifests(warehouse: Warehouse) -> list[bytes]:
    names = [entry.name for entry in warehouse.store.list("_shards") if entry.name.endswith(".json")]
    return [warehouse.store.get(name) or b"" for name in names if name.rpartition("/")[2][:5].isdigit()]


@pytest.mark.parametrize("is_folder", [True, False])
def test_workers_elsewhere_make_the_same_night(
    is_folder: bool, warehouse: Warehouse, portable: Flags, tmp_path: Path
) -> None:
    warehouse = letters(Warehouse(tmp_path / "w"), USERS) if is_folder else warehouse
    record = run_night(LettersJob(), warehouse, NIGHT, runner=Runner(beam_options=portable))
    assert (record.rows_out, record.tokens) == (10, 40)
    assert written_users(warehouse) == sorted(USERS)
    assert [entry.name for entry in warehouse.store.list() if entry.name.startswith("_")] == []


def test_an_error_of_a_worker_elsewhere_is_the_same_error(warehouse: Warehouse, portable: Flags) -> None:
    with pytest.raises(InputMissing, match=r"^no such model: get one$"):
        run_night(LettersJob(fails_at="load"), warehouse, NIGHT, runner=Runner(beam_options=portable))


def test_a_worker_elsewhere_that_is_killed_ends_the_run_and_the_next_goes_on(
    warehouse: Warehouse, portable: Flags, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = runners.WORKER_SECONDS
    monkeypatch.setattr(runners, "WORKER_SECONDS", 15.0)
    with pytest.raises(PplugError, match=r"run the command again; it goes on where it was$"):
        run_night(LettersJob(fails_at="kill dan"), warehouse, NIGHT, runner=Runner(beam_options=portable))
    monkeypatch.setattr(runners, "WORKER_SECONDS", usual)
    assert written_users(warehouse) == []
    finished = sum(json.loads(text)["tokens"] for text in manifests(warehouse))
    record = run_night(LettersJob(), warehouse, NIGHT, runner=Runner(beam_options=portable))
    assert written_users(warehouse) == sorted(USERS)
    assert (record.rows_out, record.tokens) == (10, 40 - finished), "only what the worker left unfinished"


def test_workers_that_never_begin_end_the_run(
    tmp_path: Path, job_service: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "WORKER_SECONDS", 2.0)
    nobody = (
        f"--job_endpoint=localhost:{job_service}",
        "--environment_type=EXTERNAL",
        "--environment_config=localhost:1",
    )
    warehouse = letters(Warehouse(tmp_path), USERS)
    with pytest.raises(PplugError, match=r"no worker has begun|gave up.*run the command again"):
        run_night(LettersJob(), warehouse, NIGHT, runner=Runner(beam_options=("--runner=PortableRunner", *nobody)))
