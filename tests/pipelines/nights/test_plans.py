"""Estimates come from what the last runs cost."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.nights.plans import estimated_seconds
from pipelines.nights.runs import RunRecord
from pipelines.tables.warehouse import Warehouse

START = datetime(2026, 11, 1, tzinfo=UTC)


def record(warehouse: Warehouse, number: int, tokens: int, seconds: float, **cost: float) -> None:
    start = START + timedelta(hours=number)
    run = RunRecord(f"r{number}", "encode", date(2026, 11, 1), start, start + timedelta(seconds=seconds), "done")
    run.tokens, run.config = tokens, {"cost": cost} if cost else {}
    warehouse.append("runs", run.ds, run.run_id, run.to_table())


def test_start_up_rows_and_tokens_are_estimated_apart(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    record(warehouse, 0, 5_000, 35, rows=100, shard_seconds=30, model_seconds=20)
    record(warehouse, 1, 2_000, 999, rows=100, shard_seconds=998, model_seconds=998)  # too small beside the other
    record(warehouse, 2, 0, 1)  # a night that was done
    for tokens, seconds in ((5_000, 35), (50, 5 + 10 + 0.2)):
        found = estimated_seconds(warehouse, "encode", 100, tokens, lambda: pytest.fail("there is a run"), 10)
        assert found == pytest.approx(seconds)


def test_a_job_that_never_ran_is_tried(tmp_path: Path) -> None:
    tried = list[int]()
    assert estimated_seconds(Warehouse(tmp_path), "encode", 5, 10, lambda: tried.append(1), 10) > 0
    assert tried == [1]
    assert estimated_seconds(Warehouse(tmp_path), "encode", 5, 0, lambda: tried.append(1), 0) == 0
