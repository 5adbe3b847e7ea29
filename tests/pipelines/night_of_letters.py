"""The smallest job there is: it refuses nothing, and makes of each user's items one row of `tasks`."""

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, ClassVar

import duckdb
import pyarrow as pa

from embedder.errors import InputMissing
from pipelines.nights import working
from pipelines.nights.job import Made, Night
from pipelines.nights.plans import Plan
from pipelines.nights.published import NightInputs
from pipelines.nights.shards import Shard
from pipelines.tables.schema import file_schema
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

NIGHT = date(2026, 11, 2)


def letters(warehouse: Warehouse, users: Mapping[str, int]) -> Warehouse:
    """Give each user some items."""
    posted = datetime(2026, 11, 1, tzinfo=UTC)
    rows = [
        {"user_id": user, "item_id": str(at), "kind": "note", "posted_at": posted, "text": "word", "is_edit": False}
        for user, count in users.items()
        for at in range(count)
    ]
    schema = file_schema("histories")
    warehouse.append("histories", NIGHT, "r", pa.Table.from_pylist(rows, schema=schema))
    return warehouse


def written_users(warehouse: Warehouse) -> list[str]:
    """Whose rows were published."""
    with connect(warehouse) as db:
        return [row[0] for row in db.sql("select user_id from tasks order by 1").fetchall()]


@dataclass(frozen=True)
class LettersJob:
    """Count letters."""

    fails_at: str = ""
    error: Exception | None = None
    wait: bool = False
    counts: bool = False
    name: str = "letters"
    unit: str = "letters"
    reads: tuple[str, ...] = ("histories",)
    writes: tuple[str, ...] = ("tasks",)
    shard_rows: int = 4
    takes_parts: bool = False
    force: bool = False

    waits_for: ClassVar[list[threading.Event]] = []

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def decided(self, warehouse: Warehouse) -> "LettersJob":
        return self

    def warn(self, inputs: NightInputs, counts: Mapping[str, int]) -> None:
        pass

    def inputs(self, warehouse: Warehouse, ds: date) -> NightInputs:
        files = warehouse.live("histories")
        return NightInputs(warehouse, self.name, ds, self.writes, {"histories": files}, files, {})

    def require(self, inputs: NightInputs) -> None:
        pass

    def row_counts(self, db: duckdb.DuckDBPyConnection, inputs: NightInputs) -> duckdb.DuckDBPyRelation:
        return db.sql("select user_id, count(*) from histories group by user_id order by user_id")

    def load(self, facts: Mapping[str, Any]) -> None:
        self._fail("load")

    def read(self, night: Night, shard: Shard, db: duckdb.DuckDBPyConnection) -> list[tuple[str, int, int]]:
        self._fail("read")
        users = {"first": shard.first_user, "last": shard.last_user}
        query = "select user_id, count(*), sum(length(text))::int from histories"
        where = "where user_id between $first and $last group by user_id order by user_id"
        return db.execute(f"{query} {where}", users).fetchall()

    def compute(self, night: Night, rows: list[tuple[str, int, int]], models: None) -> list[tuple[str, int, int]]:
        self._fail("compute")
        if self.fails_at == "kill" or self.fails_at == f"kill {rows[-1][0]}":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.counts:
            working.count(1)
        if self.wait and (self.counts or rows[0][0] != "ann"):
            assert self.waits_for[0].wait(60), "the shards are at work and nobody is told of the one that is done"
        return rows

    def shape(self, night: Night, results: list[tuple[str, int, int]]) -> Made:
        self._fail("shape")
        at = datetime(2026, 11, 2, tzinfo=UTC)
        rows = [
            {"task_id": user, "user_id": user, "kind": "note", "queued_at": at, "input": f"{size} letters"}
            for user, _, size in results
        ]
        tables = {"tasks": pa.Table.from_pylist(rows, schema=file_schema("tasks"))}
        tables["rejects"] = file_schema("rejects").empty_table()
        return Made(tables, sum(count for _, count, _ in results), sum(size for *_, size in results))

    def estimate(self, inputs: NightInputs, shards: Sequence[Shard]) -> Plan:
        raise NotImplementedError

    def _fail(self, where: str) -> None:
        if where == self.fails_at:
            raise self.error or InputMissing("no such model: get one")
