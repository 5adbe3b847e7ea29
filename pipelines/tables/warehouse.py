"""The one module that writes tables: finished Parquet files become visible in one Delta transaction.

    shard files (anywhere in the warehouse) ─▶ linked into <table>/ds=<night>/ ─▶ one commit with run_id and row count
    live files to be replaced, and what replaces them ─▶ one commit

No commit, no table: a reader sees a whole night or none of it. Two writers of the same night: the first commit stands,
the other writer gets a `CommitConflict`. Files are on the disk before the commit, and the commit before it counts.
"""

import contextlib
import shutil
import time
import uuid
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pd
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import RemoveAction
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from embedder.durable import make_folder
from embedder.errors import PplugError, UsageError
from pipelines.tables.delta_log import lost_entry, require_commits, settle_log, sync_log
from pipelines.tables.linked import Linked, link_all
from pipelines.tables.location import resolved
from pipelines.tables.parquet import named_causes, write_batches, write_shard
from pipelines.tables.schema import SCHEMA_VERSION, TABLES, file_schema

VERSION_KEY: Final = "pplug.schemaVersion"

__all__ = ["CommitConflict", "Warehouse", "retried", "write_shard"]


class CommitConflict(PplugError):
    """Another run committed to the same night of the same table first."""


def run_of(path: Path) -> str:
    """The run that published a file of a table."""
    return path.name.rpartition("-")[0]


def remove_action(path: Path) -> RemoveAction:
    """The entry in Delta's log that takes a file out."""
    name, night = f"{path.parent.name}/{path.name}", path.parent.name.removeprefix("ds=")
    return RemoveAction(name, True, time.time_ns() // 10**6, path.stat().st_size, {"ds": night})


def properties(table: DeltaTable, lock: str | None, run_id: str, **facts: str) -> CommitProperties:
    """What a commit carries. Of two commits on one version with the same `lock` the second fails.

    Delta's own check sees only files that were removed: two writers of a night that was empty would both win.
    """
    locks = None if lock is None else [Transaction(lock, table.version() + 1)]
    return CommitProperties(custom_metadata={"run_id": run_id, **facts}, app_transactions=locks)


retried: Final = Retrying(
    retry=retry_if_exception_type(CommitConflict),
    wait=wait_random_exponential(multiplier=0.02),
    stop=stop_after_attempt(9),
    reraise=True,
)
"""Calls what it is given until no other run commits in between."""


@dataclass(frozen=True)
class Warehouse:
    """A folder of Delta tables. Opening one reads its log anew; nothing is cached."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", resolved(self.root))

    def folder(self, name: str) -> Path:
        """Where a table lies."""
        if name not in TABLES:
            raise UsageError(f"no table {name!r}: there are {', '.join(TABLES)}")
        return self.root / name

    def table(self, name: str, version: int | None = None) -> DeltaTable | None:
        """The table, as of a version if given; None if it does not exist yet.

        Raises:
            PplugError: if it was written by another version of pplug, or by something else, or its log is damaged.
        """
        uri = self.folder(name).as_uri()
        with named_causes(self.folder(name)):
            require_commits(self.folder(name))
        if not DeltaTable.is_deltatable(uri):
            return None
        try:
            table = DeltaTable(uri, version=version)
        except DeltaError as error:
            raise PplugError(lost_entry(self.folder(name))) from error
        found = table.metadata().configuration.get(VERSION_KEY)
        if found is None:
            raise PplugError(f"{self.folder(name)} was not made by pplug: choose another --warehouse")
        if int(found) != SCHEMA_VERSION:
            told = f"{self.folder(name)} has schema version {found}, this pplug reads {SCHEMA_VERSION}"
            raise PplugError(f"{told}: run `pplug ingest histories FILE` and `pplug encode` with a new --warehouse")
        return table

    def create(self, name: str) -> DeltaTable:
        """The table, made empty if it does not exist yet."""
        found = self.table(name)
        if found is not None:
            return found
        with named_causes(self.folder(name)):
            make_folder(self.folder(name))
            try:
                table = DeltaTable.create(
                    self.folder(name).as_uri(),
                    TABLES[name],
                    partition_by=["ds"],
                    configuration={VERSION_KEY: str(SCHEMA_VERSION)},
                    raise_if_key_not_exists=False,
                )
                sync_log(self.folder(name))
                return table
            except DeltaError:
                made = self.table(name)  # by another run, at the same time
                if made is None:
                    raise
                return made

    def version(self, name: str) -> int | None:
        """Newest Delta version of a table, None if it does not exist."""
        table = self.table(name)
        return None if table is None else table.version()

    def versions(self, names: Iterable[str] = TABLES) -> dict[str, int]:
        """Newest Delta version of those of the tables that exist; readers that share them see the same rows."""
        return {name: version for name in names if (version := self.version(name)) is not None}

    def files(self, name: str, version: int | None = None) -> list[Path]:
        """The live Parquet files of a table, in a fixed order."""
        table = self.table(name, version)
        return [] if table is None else self._live(name, table)

    def publish(self, name: str, ds: date, run_id: str, shards: Sequence[Path]) -> int:
        """Replace one night of a table by the rows of finished files; no files, no rows.

        Returns:
            A Delta version that holds them: the first one, unless another night was written at that moment.

        Raises:
            CommitConflict: if another run wrote the same night meanwhile; its rows stand.
        """
        table = self.create(name)
        self._replace_night(table, name, ds, run_id, shards)
        table.update_incremental()
        return table.version()

    def append(self, name: str, ds: date, run_id: str, rows: pa.Table) -> None:
        """Add rows to a night."""
        with self.staging(f"{run_id}_append-{uuid.uuid4().hex}") as folder:
            shard = folder / "rows.parquet"
            write_shard(shard, rows.select(file_schema(name).names).cast(file_schema(name)))
            self._commit(self.create(name), name, run_id, [(ds, shard)], mode="append", lock=None)

    def replace_rejects(
        self, job: str, ds: date, run_id: str, shards: Sequence[Path], sources: Sequence[str] | None = None
    ) -> None:
        """Replace what a job refused in a night, of some sources if given, by the rows of finished files."""
        own = pc.field("job") == job
        if sources is not None:
            own &= pc.field("source").isin(list(sources))

        def attempt() -> None:
            table = self.create("rejects")
            old = pd.dataset(self._live("rejects", table, ds), schema=file_schema("rejects"))
            if not shards and not old.count_rows(filter=own):
                return
            with self.staging(f"{run_id}_rejects-{uuid.uuid4().hex}") as folder:
                kept = write_batches(folder / "kept", old.schema, old.to_batches(filter=~own))
                self._replace_night(table, "rejects", ds, run_id, [*kept, *shards])

        retried(attempt)

    def swap(
        self, name: str, run_id: str, removed: Sequence[Path], added: Sequence[tuple[date, Path]], read_version: int
    ) -> None:
        """Take live files out of a table and finished files into their nights, in one transaction.

        Args:
            name: a table that is written by `swap` only, or one that nobody else writes to meanwhile.
            run_id: written to the commit.
            removed: live files; they stay on disk for readers of older versions.
            added: night and file.
            read_version: the version that `removed` and `added` were computed from.

        Raises:
            CommitConflict: if the table was changed since `read_version`; compute the files again.
        """
        table = self.table(name, read_version)
        if table is None:
            raise PplugError(f"no table {name} version {read_version} in {self.root}: run the command again")
        self._commit(table, name, run_id, added, mode="append", lock="swap", removed=removed)

    @contextlib.contextmanager
    def staging(self, name: str) -> Generator[Path]:
        """A folder for unfinished files, gone afterwards, also on error.

        Its name is a run id, or one with `_` and more behind it: when the run was killed, the next one removes it.
        """
        folder = self.root / "_staging" / name
        with named_causes(folder):
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _live(self, name: str, table: DeltaTable, ds: date | None = None) -> list[Path]:
        """The live files, in one night if given. `file_uris` would return names that are percent-encoded."""
        actions = pa.table(table.get_add_actions(flatten=True)).select(["path", "partition.ds"]).to_pylist()
        paths = [action["path"] for action in actions if ds is None or action["partition.ds"] == ds]
        return [self.folder(name) / path for path in sorted(paths)]

    def _replace_night(self, table: DeltaTable, name: str, ds: date, run_id: str, shards: Sequence[Path]) -> None:
        night = [(ds, shard) for shard in shards]
        self._commit(table, name, run_id, night, mode="overwrite", lock=f"ds={ds.isoformat()}")

    def _commit(
        self,
        table: DeltaTable,
        name: str,
        run_id: str,
        added: Sequence[tuple[date, Path]],
        *,
        mode: Literal["append", "overwrite"],
        lock: str | None,
        removed: Sequence[Path] = (),
    ) -> None:
        """Link the files that have rows into their nights and add them in one transaction.

        With the mode `overwrite` they replace the night that `lock` names.
        """
        linked = [Linked.of(self.folder(name), run_id, ds, source) for ds, source in added]
        linked = [file for file in linked if file.facts["numRecords"]]
        rows = sum(file.facts["numRecords"] for file in linked)
        with named_causes(self.folder(name)):
            link_all(linked)
            try:
                table.create_write_transaction(
                    [*(remove_action(path) for path in removed), *(file.add_action() for file in linked)],
                    mode,
                    TABLES[name],
                    ["ds"],
                    partition_filters=[("ds", "=", str(lock).removeprefix("ds="))] if mode == "overwrite" else None,
                    commit_properties=properties(table, lock, run_id, row_count=str(rows)),
                    post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
                )
            except CommitFailedError as error:
                for file in linked:  # any other failure leaves them: the commit may have been made
                    file.path.unlink(missing_ok=True)
                told = f"{name} {lock}" if mode == "overwrite" else name
                raise CommitConflict(f"{told} was written by another run meanwhile: run the command again") from error
            settle_log(table, self.folder(name))
