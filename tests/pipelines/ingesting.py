"""What the tests of ingestion share: files to ingest, and what is in the warehouse afterwards."""

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

from llm_jobs.kinds import Kind
from pipelines.ingest import ingest_histories, ingest_tasks
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

NIGHT, NEXT = date(2026, 11, 20), date(2026, 11, 21)
KINDS = {"LaMP_4"}
HISTORY = {"user_id": "u", "item_id": "i", "kind": "LaMP_4", "posted_at": "2026-11-20", "text": "t", "output": "o"}
TASK = {"task_id": "t", "user_id": "u", "kind": "LaMP_4", "queued_at": "2026-11-20", "input": "x"}


def jsonl(path: Path, *lines: dict[str, Any] | bytes) -> Path:
    """A file of these lines."""
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def ingest_all(
    warehouse: Warehouse,
    folder: Path,
    items: Sequence[dict[str, Any]],
    tasks: Sequence[dict[str, Any]],
    ds: date,
    kinds: dict[str, Kind],
) -> Warehouse:
    """Put items and tasks into a warehouse, by files in a folder."""
    for rows, ingest in ((items, ingest_histories), (tasks, ingest_tasks)):
        if rows:
            ingest(warehouse, [jsonl(folder / f"{uuid4().hex}.jsonl", *rows)], ds, kinds)
    return warehouse


def item(item_id: str = "i", **changes: object) -> dict[str, Any]:
    """A good history row."""
    return {**HISTORY, "item_id": item_id, **changes}


def rows(warehouse: Warehouse, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with connect(warehouse) as db:
        return db.execute(sql).fetchall()


def items(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    """Item, text and night of every history row."""
    return rows(warehouse, "select item_id, text, ds from histories order by all")


def refused(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    """Row id and reason of every reject."""
    return rows(warehouse, "select row_id, reason from rejects order by all")
