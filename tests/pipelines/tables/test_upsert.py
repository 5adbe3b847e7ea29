"""An upsert rewrites only the files that hold an old row."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ingesting import KINDS, NEXT, NIGHT, item, items, jsonl
from one_night import live_paths

from pipelines.ingest import ingest_histories
from pipelines.tables.warehouse import Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


def test_a_change_of_one_user_leaves_the_files_of_others_alone(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.tables.parquet.FILE_ROWS", 10)
    monkeypatch.setattr("pipelines.tables.upsert.ROW_GROUP_ROWS", 5)
    many = [item(f"{n}", user_id=f"{n:04d}") for n in range(5_000)]
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", *many)], NIGHT, KINDS)
    before = set(live_paths(warehouse, "histories"))
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", {**many[7], "text": "new"})], NEXT, KINDS)
    after = set(live_paths(warehouse, "histories"))
    assert (len(before) > 2, len(before - after), len(after - before)) == (True, 1, 2)
    assert len(items(warehouse)) == 5_000
    users = [pq.read_table(file, columns=["user_id"])["user_id"].to_pylist() for file in after]
    assert all(own == sorted(own) for own in users)
