"""Shards: a night's work cut into ranges of users, each finished on disk before the night is published.

    users and their row counts ─▶ shards ─▶ (a Beam job) ─▶ files of each shard, its receipt last ─▶ receipts

A shard with a receipt is done: the next run of the same work skips it. The folder's name is a fingerprint of all that
determines the work, so that nothing of another setting or another input is ever taken over. A night that is published
needs none of its folders any more.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from embedder.errors import PplugError
from pipelines.tables.warehouse import Warehouse, write_shard


@dataclass(frozen=True)
class Shard:
    """The users from `first_user` to `last_user`, both included, in the order of their ids."""

    index: int
    first_user: str
    last_user: str
    row_count: int


@dataclass(frozen=True)
class Receipt:
    """What a finished shard holds."""

    index: int
    rows_in: int
    rows_out: int
    rows_rejected: int
    tokens: int
    seconds: float
    """Time in which the model computed them."""
    tied_count: int = 0
    """Answers that depend on a tie; receipts of earlier versions do not count them."""


def cut_shards(row_counts: Iterable[tuple[str, int]], most_rows: int) -> list[Shard]:
    """Cut users, given in the order of their ids, into shards of at most `most_rows` rows; no user is ever split."""
    shards: list[Shard] = []
    for user_id, rows in row_counts:
        last = shards[-1] if shards else None
        if last is not None and last.row_count + rows <= most_rows:
            shards[-1] = Shard(last.index, last.first_user, user_id, last.row_count + rows)
        else:
            shards.append(Shard(len(shards), user_id, user_id, rows))
    return shards


def canonical_sha256(settings: Mapping[str, Any]) -> str:
    """sha256 of settings, whatever the order they are written in."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class ShardFolder:
    """Where the finished shards of one piece of work lie: `_shards/<job>/<ds>/<fingerprint>` in the warehouse."""

    path: Path

    @classmethod
    def of(cls, warehouse: Warehouse, job: str, ds: date, fingerprint: str) -> "ShardFolder":
        """The folder of the work on a night that `fingerprint` stands for."""
        return cls(shards_of_night(warehouse, job, ds) / fingerprint)

    def file(self, shard: Shard, table: str) -> Path:
        """The Parquet file that holds a shard's rows of a table."""
        return self.path / f"{shard.index:05d}.{table}.parquet"

    def receipt(self, shard: Shard) -> Receipt | None:
        """What the shard holds, or None while it is unfinished."""
        path = self.path / f"{shard.index:05d}.json"
        return Receipt(**json.loads(path.read_text(encoding="utf8"))) if path.is_file() else None

    def write(self, shard: Shard, tables: Mapping[str, pa.Table], receipt: Receipt) -> None:
        """Write a shard's tables, then its receipt; each file appears whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            if table.num_rows:
                write_shard(self.file(shard, name), table)
        path = self.path / f"{shard.index:05d}.json"
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps(asdict(receipt)), encoding="utf8")
        fresh.replace(path)

    def finish(self, shards: Sequence[Shard]) -> list[Receipt]:
        """The receipts of all shards.

        Raises:
            PplugError: if one is missing, which means that a worker was lost.
        """
        receipts = [self.receipt(shard) for shard in shards]
        done = [receipt for receipt in receipts if receipt is not None]
        if len(done) < len(shards):
            raise PplugError(f"{len(shards) - len(done)} of {len(shards)} shards are unfinished: run the command again")
        return done

    def files(self, shards: Sequence[Shard], table: str) -> list[Path]:
        """The files of a table, in the order of the shards; a shard without rows has none."""
        return [path for shard in shards if (path := self.file(shard, table)).is_file()]

    def remove(self) -> None:
        """Forget the work, when it must be done anew."""
        shutil.rmtree(self.path, ignore_errors=True)


def shards_of_night(warehouse: Warehouse, job: str, ds: date) -> Path:
    """Where all work on a night lies, of whatever fingerprint."""
    return warehouse.root / "_shards" / job / ds.isoformat()


def remove_shards(warehouse: Warehouse, job: str, ds: date) -> None:
    """Forget all work on a night, once it is published."""
    shutil.rmtree(shards_of_night(warehouse, job, ds), ignore_errors=True)


def tokens_since(warehouse: Warehouse, job: str, ds: date, moment: datetime) -> int:
    """Tokens of the shards of a night that were finished since a moment, by whatever run."""
    receipts = shards_of_night(warehouse, job, ds).glob("*/*.json")
    new = (path for path in receipts if path.stat().st_mtime >= moment.timestamp())
    return sum(json.loads(path.read_text(encoding="utf8"))["tokens"] for path in new)
