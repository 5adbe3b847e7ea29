"""The one module that writes tables: finished Parquet files become visible in one Delta transaction.

    shard files (anywhere in the warehouse) ─▶ linked into <table>/ds=<night>/ ─▶ one commit with run_id and row count
    changed rows ─▶ one merge

No commit, no table: a reader sees a whole night or none of it. Two writers of the same night: the first commit stands,
the other writer gets a `CommitConflict`.
"""

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pd
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction

from embedder.errors import PplugError, UsageError
from pipelines.parquet import ROW_GROUP_ROWS, named_causes, stats, write_shard
from pipelines.tables import KEYS, SCHEMA_VERSION, TABLES, file_schema

VERSION_KEY: Final = "pplug.schemaVersion"
CONFLICT_ATTEMPTS: Final = 8

__all__ = ["CommitConflict", "Warehouse", "retried", "write_shard"]

T = TypeVar("T")


class CommitConflict(PplugError):
    """Another run committed to the same night of the same table first."""


def link(source: Path, target: Path) -> None:
    """Give a finished file a second name, or copy it where the file system cannot.

    The first name stays, so that a run that dies before its last commit can publish the same files again.
    """
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise PplugError(f"{source} vanished before it was published: run the command again") from error
    except OSError:
        shutil.copyfile(source, target)


def add_action(path: Path, ds: date, facts: Mapping[str, Any]) -> AddAction:
    """The entry of a file in Delta's log."""
    size, written_at = path.stat().st_size, int(path.stat().st_mtime * 1000)
    name = f"{path.parent.name}/{path.name}"
    return AddAction(name, size, {"ds": ds.isoformat()}, written_at, True, json.dumps(facts))


def properties(table: DeltaTable, lock: str | None, run_id: str, **facts: str) -> CommitProperties:
    """What a commit carries. Of two commits on one version with the same `lock` the second fails.

    Delta's own check sees only files that were removed: two writers of a night that was empty would both win.
    """
    locks = None if lock is None else [Transaction(lock, table.version() + 1)]
    return CommitProperties(custom_metadata={"run_id": run_id, **facts}, app_transactions=locks)


def retried(attempt: Callable[[], T]) -> T:
    """Try until no other run commits in between."""
    for wait in range(CONFLICT_ATTEMPTS):
        try:
            return attempt()
        except CommitConflict:
            time.sleep(0.02 * 2**wait)
    return attempt()


@dataclass(frozen=True)
class Warehouse:
    """A folder of Delta tables. Opening one reads its log anew; nothing is cached."""

    root: Path

    def __post_init__(self) -> None:
        odd = [letter for letter in "%?#" if letter in str(self.root.absolute())]  # deltalake 1.6 reads it as a URL
        if odd:
            raise UsageError(f"warehouse path {self.root} has a {odd[0]}: choose another --warehouse")

    def folder(self, name: str) -> Path:
        """Where a table lies."""
        if name not in TABLES:
            raise UsageError(f"no table {name!r}: there are {', '.join(TABLES)}")
        return self.root.absolute() / name

    def table(self, name: str, version: int | None = None) -> DeltaTable | None:
        """The table, as of a version if given; None if it does not exist yet.

        Raises:
            PplugError: if it was written by a newer pplug, or by something else.
        """
        uri = self.folder(name).as_uri()
        if not DeltaTable.is_deltatable(uri):
            return None
        table = DeltaTable(uri, version=version)
        found = table.metadata().configuration.get(VERSION_KEY)
        if found is None:
            raise PplugError(f"{self.folder(name)} was not made by pplug: choose another --warehouse")
        if int(found) > SCHEMA_VERSION:
            known = f"this pplug knows versions up to {SCHEMA_VERSION}"
            raise PplugError(f"{self.folder(name)} has schema version {found}, {known}: `pip install -U pplug`")
        return table

    def create(self, name: str) -> DeltaTable:
        """The table, made empty if it does not exist yet."""
        found = self.table(name)
        if found is not None:
            return found
        with named_causes(self.folder(name)):
            self.folder(name).mkdir(parents=True, exist_ok=True)
            try:
                return DeltaTable.create(
                    self.folder(name).as_uri(),
                    TABLES[name],
                    partition_by=["ds"],
                    configuration={VERSION_KEY: str(SCHEMA_VERSION)},
                    raise_if_key_not_exists=False,
                )
            except DeltaError:
                made = self.table(name)  # by another run, at the same time
                if made is None:
                    raise
                return made

    def version(self, name: str) -> int | None:
        """Newest Delta version of a table, None if it does not exist."""
        table = self.table(name)
        return None if table is None else table.version()

    def versions(self) -> dict[str, int]:
        """Newest Delta version of every table that exists; readers that share them see the same rows."""
        return {name: version for name in TABLES if (version := self.version(name)) is not None}

    def files(self, name: str, version: int | None = None) -> list[Path]:
        """The live Parquet files of a table, in a fixed order."""
        table = self.table(name, version)
        return [] if table is None else self._live(name, table)

    def publish(self, name: str, ds: date, run_id: str, shards: Sequence[Path]) -> None:
        """Replace one night of a table by the rows of finished files; no files, no rows.

        Raises:
            CommitConflict: if another run wrote the same night meanwhile; its rows stand.
        """
        self._commit(self.create(name), name, ds, run_id, shards, "overwrite")

    def append(self, name: str, ds: date, run_id: str, rows: pa.Table) -> None:
        """Add rows to a night."""
        with self.staging(f"append-{uuid.uuid4().hex}") as folder:
            shard = folder / "rows.parquet"
            write_shard(shard, rows.select(file_schema(name).names).cast(file_schema(name)))
            self._commit(self.create(name), name, ds, run_id, [shard], "append")

    def replace_rejects(
        self, job: str, ds: date, run_id: str, shards: Sequence[Path], source: str | None = None
    ) -> None:
        """Replace what a job refused in a night, of one source if given, by the rows of finished files."""
        own = pc.field("job") == job
        if source is not None:
            own &= pc.field("source") == source

        def attempt() -> None:
            table = self.create("rejects")
            old = pd.dataset(self._live("rejects", table, ds), schema=file_schema("rejects"))
            if not shards and not old.count_rows(filter=own):
                return
            with self.staging(f"rejects-{uuid.uuid4().hex}") as folder:
                kept = folder / "kept.parquet"
                with pq.ParquetWriter(kept, old.schema, compression="zstd") as file:
                    for batch in old.to_batches(filter=~own):
                        file.write_batch(batch)
                self._commit(table, "rejects", ds, run_id, [kept, *shards], "overwrite")

        retried(attempt)

    def upsert(self, name: str, run_id: str, changes: pa.RecordBatchReader, read_version: int) -> None:
        """Apply changed rows by key in one merge; rows that are not named stay where they are.

        Args:
            name: a table with a key.
            run_id: written to the commit.
            changes: the columns of the table and a BOOL `deleted`; each key at most once.
            read_version: the version the changes were computed from.

        Raises:
            CommitConflict: if the table was changed since `read_version`; compute the changes again.
        """
        table = self.table(name, read_version)
        if table is None:
            raise PplugError(f"no table {name} version {read_version} in {self.root}: run the command again")
        columns = {column: f"source.{column}" for column in TABLES[name].names}
        merge = table.merge(
            changes,
            " and ".join(f"target.{key} = source.{key}" for key in KEYS[name]),
            source_alias="source",
            target_alias="target",
            writer_properties=WriterProperties(compression="ZSTD", max_row_group_size=ROW_GROUP_ROWS),
            commit_properties=properties(table, "upsert", run_id),
        )
        merge = merge.when_matched_delete("source.deleted").when_matched_update(columns)
        try:
            with named_causes(self.folder(name)):
                merge.when_not_matched_insert(columns, "not source.deleted").execute()
        except CommitFailedError as error:
            raise CommitConflict(f"{name} was changed by another run meanwhile: run the command again") from error

    @contextlib.contextmanager
    def staging(self, run_id: str) -> Generator[Path]:
        """A folder for unfinished files, gone afterwards, also on error."""
        folder = self.root.absolute() / "_staging" / run_id
        with named_causes(folder):
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # another run still has files there
                    folder.parent.rmdir()

    def _live(self, name: str, table: DeltaTable, ds: date | None = None) -> list[Path]:
        """The live files, in one night if given. `file_uris` would return names that are percent-encoded."""
        actions = pa.table(table.get_add_actions(flatten=True)).select(["path", "partition.ds"]).to_pylist()
        paths = [action["path"] for action in actions if ds is None or action["partition.ds"] == ds]
        return [self.folder(name) / path for path in sorted(paths)]

    def _commit(self, table: DeltaTable, name: str, ds: date, run_id: str, shards: Sequence[Path], mode: str) -> None:
        """Link the files that have rows into the night's folder and add them in one transaction."""
        folder = self.folder(name) / f"ds={ds.isoformat()}"
        found = {folder / f"{run_id}-{uuid.uuid4().hex[:12]}.parquet": (shard, stats(shard)) for shard in shards}
        found = {path: (shard, facts) for path, (shard, facts) in found.items() if facts["numRecords"]}
        rows = sum(facts["numRecords"] for _, facts in found.values())
        is_whole = mode == "overwrite"
        with named_causes(folder):
            folder.mkdir(exist_ok=True)
            for path, (shard, _) in found.items():
                link(shard, path)
            try:
                table.create_write_transaction(
                    [add_action(path, ds, facts) for path, (_, facts) in found.items()],
                    mode,
                    TABLES[name],
                    ["ds"],
                    partition_filters=[("ds", "=", ds.isoformat())] if is_whole else None,
                    commit_properties=properties(table, folder.name if is_whole else None, run_id, row_count=str(rows)),
                )
            except CommitFailedError as error:
                for path in found:  # any other failure leaves them: the commit may have been made
                    path.unlink(missing_ok=True)
                told = f"{name} {folder.name} was published by another run meanwhile and its rows stand"
                raise CommitConflict(f"{told}: run the command again to replace them") from error
