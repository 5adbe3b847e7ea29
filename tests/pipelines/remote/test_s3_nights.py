"""Both jobs on an object store, by workers elsewhere and by local processes: the same rows as on one machine."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from one_night import encode_night, generate_night
from small_night import ITEMS, NIGHT, TASKS

from embedder.errors import PplugError
from llm_jobs.kinds import Kind
from llm_jobs.training.fit import seeded_plug
from pipelines.answers.models import GenerateConfig, load_models
from pipelines.cli import main
from pipelines.encode import EncodeConfig
from pipelines.expire import expire_nights
from pipelines.forget import forget_user
from pipelines.ingest import ingest_histories, ingest_tasks
from pipelines.nights.runners import Runner
from pipelines.nights.runs import list_runs
from pipelines.report.night import night_numbers
from pipelines.tables.queries import run_checks, run_query
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.train import plug_config

pytestmark = pytest.mark.beam

TABLES = ("histories", "history_vectors", "persona_vectors", "tasks", "outputs", "rejects")


@dataclass(frozen=True)
class Nights:
    """What it takes to make the same night anywhere."""

    files: Path
    plug: Path
    encode: EncodeConfig
    generate: GenerateConfig
    kinds: dict[str, Kind]

    def make(self, warehouse: Warehouse, runner: Runner) -> Warehouse:
        """Ingest, encode, generate."""
        ingest_histories(warehouse, [self.files / "items.jsonl"], NIGHT, self.kinds)
        ingest_tasks(warehouse, [self.files / "tasks.jsonl"], NIGHT, self.kinds)
        encode_night(warehouse, NIGHT, self.encode, self.kinds, runner=runner)
        generate_night(warehouse, NIGHT, [self.plug], self.generate, self.kinds, runner=runner)
        return warehouse


@pytest.fixture(scope="module")
def nights(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
) -> Nights:
    folder = tmp_path_factory.mktemp("inputs")
    for name, rows in (("items", ITEMS), ("tasks", TASKS)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    seeded_plug(plug_config(kinds["note"], load_models(generate_config)), seed=1).save_pretrained(folder / "plug")
    return Nights(folder, folder / "plug", encode_config, generate_config, kinds)


@pytest.fixture(scope="module")
def local(nights: Nights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The rows of the night, made here."""
    return rows_of(nights.make(Warehouse(tmp_path_factory.mktemp("local")), Runner()))


def rows_of(warehouse: Warehouse) -> dict[str, list[Any]]:
    found = dict[str, list[Any]]()
    with connect(warehouse) as db:
        for name in TABLES:
            columns = [row[0] for row in db.execute(f"describe {name}").fetchall() if row[0] != "run_id"]
            found[name] = db.sql(f"select {', '.join(columns)} from {name} order by all").fetchall()
    return found


def close(ours: Any, theirs: Any) -> bool:
    """Equal, floats within 1e-5."""
    if isinstance(ours, float):
        return abs(ours - theirs) <= 1e-5
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(close(ours[name], theirs[name]) for name in ours)
    return ours == theirs


def assert_same(ours: dict[str, list[Any]], theirs: dict[str, list[Any]]) -> None:
    for name in TABLES:
        assert theirs[name] or name == "rejects"
        assert close(ours[name], theirs[name]), name


def test_workers_elsewhere_make_the_night_of_one_machine_on_s3(
    nights: Nights, local: dict[str, list[Any]], s3_options: dict[str, str], portable: tuple[str, ...]
) -> None:
    warehouse = nights.make(Warehouse("s3://bucket/elsewhere", s3_options), Runner(beam_options=portable))
    assert_same(rows_of(warehouse), local)


@pytest.fixture(scope="module")
def bucket(nights: Nights, s3_options: dict[str, str]) -> Iterator[Warehouse]:
    """The night made by two processes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_options.items():
            patch.setenv(name, value)
        yield nights.make(Warehouse("s3://bucket/processes"), Runner(workers=2))


def test_two_processes_make_the_night_of_one_on_s3(bucket: Warehouse, local: dict[str, list[Any]]) -> None:
    assert_same(rows_of(bucket), local)
    assert [entry.name for entry in bucket.store.list() if entry.name.startswith("_")] == []


def test_checks_queries_report_and_runs_read_s3(bucket: Warehouse) -> None:
    with connect(bucket) as db:
        assert {name: rows.num_rows for name, rows in run_checks(db, None).items() if rows.num_rows} == {}
        assert run_query(db, "task_coverage", {"ds": NIGHT.isoformat()}).num_rows == 1
        assert night_numbers(db, NIGHT).sections[0]["row_count"]
    jobs = {run["job"] for run in list_runs(bucket)}
    assert jobs >= {"ingest_histories", "ingest_tasks", "encode", "generate"}


def test_the_command_line_takes_a_uri(bucket: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    question = "select count(*) as item_count from histories"
    assert main(["sql", question, "--json", "--warehouse", str(bucket)]) == 0
    assert json.loads(capsys.readouterr().out) == {"item_count": len(ITEMS)}
    assert main(["runs", "--warehouse", "hdfs://host/w"]) == 2
    assert "s3://, gs://, az://, abfss://" in capsys.readouterr().err
    assert main(["check", "--warehouse", "s3://no-such-bucket/w"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_changed_item_is_encoded_alone_and_a_user_can_be_forgotten_on_s3(bucket: Warehouse, nights: Nights) -> None:
    changed = nights.files / "changed.jsonl"
    changed.write_text(json.dumps(ITEMS[0] | {"text": "not apples"}), encoding="utf8")
    result = ingest_histories(bucket, [changed], NIGHT, nights.kinds)
    assert (result.changed, result.unchanged) == (1, 0)
    record = encode_night(bucket, NIGHT, nights.encode, nights.kinds)
    assert 0 < record.tokens < 20
    forget_user(bucket, "bob", reader_seconds=0)
    for name in TABLES:
        if name != "rejects":
            with connect(bucket) as db:
                users = {row[0] for row in db.sql(f"select user_id from {name}").fetchall()}
            assert "bob" not in users, name
            assert users >= {"ann"}, name
    held = [entry.name for entry in bucket.store.list() if b"bob" in (bucket.store.get(entry.name) or b"")]
    assert held == []
    assert ingest_histories(bucket, [nights.files / "items.jsonl"], NIGHT, nights.kinds).rows_rejected == 6


def test_old_nights_expire_on_s3(bucket: Warehouse) -> None:
    assert expire_nights(bucket, 1, reader_seconds=0) == []


def test_a_worker_with_another_model_of_the_same_name_is_refused(nights: Nights, s3_options: dict[str, str]) -> None:
    job_facts = {"encoder_sha256": "0" * 64}
    from pipelines.encode import encode_job

    with pytest.raises(PplugError, match=r"this worker has encoder .* but the night was planned with 00000000"):
        encode_job(nights.encode, nights.kinds).load(job_facts)
