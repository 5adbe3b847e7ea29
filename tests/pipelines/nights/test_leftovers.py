"""What runs that did not end well left behind goes; what others need stays."""

from datetime import date
from pathlib import Path

import pyarrow as pa

from pipelines.nights.runs import sweep
from pipelines.tables.parquet import write_shard
from pipelines.tables.schema import file_schema
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

NIGHT = date(2026, 11, 1)


def rejects(count: int = 1) -> pa.Table:
    schema = file_schema("rejects")
    return pa.Table.from_pylist([dict.fromkeys(schema.names, "x")] * count, schema=schema)


def test_files_in_a_table_that_no_commit_names_go_with_the_run_they_are_named_after(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.append("rejects", NIGHT, "killed-a", rejects())
    live = set((tmp_path / "rejects").rglob("*.parquet"))
    night = tmp_path / "rejects" / f"ds={NIGHT}"
    orphan, other = (night / f"{run_id}-{'0' * 12}.parquet" for run_id in ("killed-a", "done-c"))
    for path in (orphan, other, night / f"v00000001-killed-a-{'0' * 12}.parquet"):
        write_shard(path, rejects())
    (night / ".v00000001-killed-a-1.parquet.0.tmp").write_bytes(b"PAR1")
    sweep(warehouse, "killed-a")
    assert set((tmp_path / "rejects").rglob("*.parquet")) == live | {other}
    assert not list(night.glob(".*"))
    with connect(warehouse) as db:
        assert db.sql("select count(*) from rejects").fetchall() == [(1,)]


def test_unfinished_files_of_the_run_go(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for run_id in ("killed-ingest_histories-b", "alive-ingest_histories-c"):
        for name in (run_id, f"{run_id}_append-1"):
            (tmp_path / "_staging" / name).mkdir(parents=True)
    sweep(warehouse, "killed-ingest_histories-b")
    left = ["alive-ingest_histories-c", "alive-ingest_histories-c_append-1"]
    assert sorted(path.name for path in (tmp_path / "_staging").iterdir()) == left
