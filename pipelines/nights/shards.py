"""Shards: a night's work cut into ranges of users, each finished on disk before the night is published.

    users and their row counts ─▶ shards ─▶ (a Beam job) ─▶ files of each shard, its receipt last ─▶ receipts

A shard whose files are those of its receipt is done: the next run of the same work skips it. The folder's name is a
fingerprint of all that determines the work, so that nothing of another setting or another input is ever taken over. A
night that is published needs none of its folders any more.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, Self

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
class ShardFile:
    """A finished file of a shard, as it was written."""

    row_count: int
    sha256: str

    @classmethod
    def of(cls, path: Path, row_count: int) -> Self:
        """The facts of a file that holds so many rows."""
        with path.open("rb") as file:
            return cls(row_count, hashlib.file_digest(file, "sha256").hexdigest())


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
    """Answers that depend on a tie."""
    shortened_count: int = 0
    """Answers whose prompt lost its middle to fit the LLM's context."""
    files: Mapping[str, ShardFile] = field(default_factory=dict[str, ShardFile])
    """By table; a table without rows has none."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The receipt in a file; None if there is none, or one that a power loss or an earlier version left."""
        try:
            facts = json.loads(path.read_text(encoding="utf8"))
            return cls(**facts | {"files": {name: ShardFile(**file) for name, file in facts["files"].items()}})
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            return None


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
        """What the shard holds by its receipt, or None while it is unfinished."""
        return Receipt.read(self._receipt_file(shard))

    def verified(self, shard: Shard) -> Receipt | None:
        """The receipt of a shard whose files are there, byte for byte; None while it must be done, or done again."""
        receipt = self.receipt(shard)
        try:
            if receipt is None or receipt.index != shard.index:
                return None
            found = {name: ShardFile.of(self.file(shard, name), file.row_count) for name, file in receipt.files.items()}
        except FileNotFoundError:
            return None
        return receipt if found == receipt.files else None

    def unfinished(self, shards: Iterable[Shard]) -> list[Shard]:
        """The shards that must be done; what is left of them is removed, so that nobody takes them for done."""
        todo = [shard for shard in shards if self.verified(shard) is None]
        for shard in todo:
            self._receipt_file(shard).unlink(missing_ok=True)
        return todo

    def write(self, shard: Shard, tables: Mapping[str, pa.Table], receipt: Receipt) -> None:
        """Write a shard's tables, then its receipt with the facts of the files; each appears whole or not at all.

        Neither waits for the disk: after a power loss what does not fit the receipt is done again.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        files: dict[str, ShardFile] = {}
        for name, table in tables.items():
            if table.num_rows:
                write_shard(self.file(shard, name), table)
                files[name] = ShardFile.of(self.file(shard, name), table.num_rows)
        path = self._receipt_file(shard)
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps(asdict(replace(receipt, files=files))), encoding="utf8")
        fresh.replace(path)

    def finish(self, shards: Sequence[Shard]) -> list[Receipt]:
        """The receipts of all shards, whose files were looked through.

        Raises:
            PplugError: if one is missing or does not fit, which means that a worker was lost or a file was changed.
        """
        done = [receipt for shard in shards if (receipt := self.verified(shard)) is not None]
        if len(done) < len(shards):
            raise PplugError(f"{len(shards) - len(done)} of {len(shards)} shards are unfinished: run the command again")
        return done

    def files(self, receipts: Sequence[Receipt], table: str) -> list[Path]:
        """The files of a table that receipts name, in their order."""
        return [self.path / f"{receipt.index:05d}.{table}.parquet" for receipt in receipts if table in receipt.files]

    def _receipt_file(self, shard: Shard) -> Path:
        return self.path / f"{shard.index:05d}.json"

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
    return sum(receipt.tokens for path in new if (receipt := Receipt.read(path)) is not None)
