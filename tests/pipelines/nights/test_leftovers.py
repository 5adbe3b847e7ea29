"""What runs that are over left behind goes; what a run under way needs stays."""

import os
import socket
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.nights.leftovers import sweep
from pipelines.nights.runs import RunRecord, recorded_run
from pipelines.tables.parquet import write_shard
from pipelines.tables.schema import file_schema
from pipelines.tables.views import SPILL, connect
from pipelines.tables.warehouse import Warehouse

NIGHT = date(2026, 11, 1)


def record(warehouse: Warehouse, run_id: str, status: str) -> None:
    at = datetime(2026, 11, 1, tzinfo=UTC)
    warehouse.append("runs", NIGHT, run_id, RunRecord(run_id, "encode", NIGHT, at, at, status).to_table())


def rejects(count: int = 1) -> pa.Table:
    schema = file_schema("rejects")
    return pa.Table.from_pylist([dict.fromkeys(schema.names, "x")] * count, schema=schema)


def sweep_now(warehouse: Warehouse) -> None:
    sweep(warehouse, "encode", NIGHT, datetime.now(UTC))


def test_files_in_a_table_that_no_commit_names_go_when_their_run_has_failed(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for run_id, status in (("killed-a", "killed"), ("failed-b", "failed"), ("done-c", "done")):
        record(warehouse, run_id, status)
    for run_id in ("killed-a", "failed-b"):  # of each a live file, an old one, and one that was never committed
        for _ in range(2):
            path = tmp_path / "shard.parquet"
            write_shard(path, rejects())
            warehouse.publish("rejects", NIGHT, run_id, [path])
    named = set((tmp_path / "rejects").rglob("*.parquet"))
    night = tmp_path / "rejects" / f"ds={NIGHT}"
    orphans = [night / f"{run_id}-{'0' * 12}.parquet" for run_id in ("killed-a", "failed-b")]
    kept = [night / f"{run_id}-{'0' * 12}.parquet" for run_id in ("done-c", "unknown-d")]
    for path in (*orphans, *kept):
        write_shard(path, rejects())
    sweep_now(warehouse)
    assert set((tmp_path / "rejects").rglob("*.parquet")) == named | set(kept)
    with connect(warehouse) as db:
        assert db.sql("select count(*) from rejects").fetchall() == [(1,)]


def test_named_files_are_kept_when_the_log_is_a_checkpoint(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    record(warehouse, "failed-a", "failed")
    for _ in range(3):
        write_shard(tmp_path / "shard.parquet", rejects())
        warehouse.publish("rejects", NIGHT, "failed-a", [tmp_path / "shard.parquet"])
    table = warehouse.table("rejects")
    assert table is not None
    table.create_checkpoint()
    for entry in sorted((tmp_path / "rejects" / "_delta_log").glob("*.json")):
        entry.unlink()
    before = set((tmp_path / "rejects").rglob("*.parquet"))
    assert len(before) == 4  # three files and the checkpoint
    sweep_now(warehouse)
    assert set((tmp_path / "rejects").rglob("*.parquet")) == before


def test_unfinished_files_of_runs_that_are_over_go(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for run_id in ("killed-encode-a", "killed-ingest_histories-b"):
        record(warehouse, run_id, "killed")
    for run_id in ("killed-encode-a", "killed-ingest_histories-b", "alive-ingest_histories-c"):
        for name in (run_id, f"{run_id}_append-1"):
            (tmp_path / "_staging" / name).mkdir(parents=True)
    sweep_now(warehouse)
    left = ["alive-ingest_histories-c", "alive-ingest_histories-c_append-1"]
    assert sorted(path.name for path in (tmp_path / "_staging").iterdir()) == left


def test_temporary_files_of_a_process_that_is_gone_go(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    gone = int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True).stdout)
    machine = socket.gethostname()
    kept = [tmp_path / f"{SPILL}{os.getpid()}-{machine}-aa", tmp_path / f"{SPILL}{gone}-another-machine-bb"]
    for folder in (*kept, tmp_path / f"{SPILL}{gone}-{machine}-cc"):
        folder.mkdir()
    sweep_now(warehouse)
    assert sorted(tmp_path.glob(f"{SPILL}*")) == sorted(kept)


@pytest.mark.parametrize(("age", "is_kept"), [(-100, False), (100, True)])
def test_a_commit_that_was_never_finished_goes_unless_a_run_under_way_may_be_at_it(
    age: int, is_kept: bool, tmp_path: Path
) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.create("rejects")
    half = tmp_path / "rejects" / "_delta_log" / "_commit_7.json.tmp"
    half.write_text("{")
    with recorded_run(warehouse, "generate", NIGHT, {}) as run:
        start = run.started_at.timestamp()
        os.utime(half, (start + age, start + age))
        sweep_now(warehouse)
    assert half.exists() == is_kept
    assert len(list(half.parent.iterdir())) == 1 + is_kept
