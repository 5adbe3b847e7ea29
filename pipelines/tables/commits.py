"""The one module that commits to tables: finished Parquet files become visible in one Delta transaction.

    files of finished shards, already below <table>/ds=<night>/ ─┐
    files staged on this machine ─▶ put there ───────────────────┴─▶ one commit with run_id and row count
    live files to be replaced, and what replaces them ─────────────▶ one commit

No commit, no table: a reader sees a whole night or none of it. Every table counts the commits to each night, and those
that take single files out. A writer names the counts it began with: if one has changed by then, what it made is of
yesterday, and it gets a `CommitConflict`; so of two writers of a night one wins, and what was forgotten stays so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.exceptions import CommitFailedError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from embedder.errors import PplugError
from pipelines.store.folder import named_causes
from pipelines.store.stored import Store
from pipelines.tables.data_files import SWAP, Counts, DataFile, counts_of, live_files, new_name
from pipelines.tables.delta_log import settle_log
from pipelines.tables.schema import TABLES


class CommitConflict(PplugError):
    """Another run committed to the same night of the same table first."""


ATTEMPTS: Final = 20  # to commit a night while other nights are committed to the same table

retried: Final = Retrying(
    retry=retry_if_exception_type(CommitConflict),
    wait=wait_random_exponential(multiplier=0.02),
    stop=stop_after_attempt(9),
    reraise=True,
)
"""Calls what it is given until no other run commits in between."""


class Change(NamedTuple):
    """What one commit does to a table."""

    added: Sequence[DataFile]
    removed: Sequence[DataFile]
    counts: Counts  # what the table counts from then on; see `Warehouse.counts`


@dataclass(frozen=True)
class RunCommits:
    """What a run commits to a table."""

    store: Store
    name: str
    run_id: str

    def put(self, ds: date, path: Path, born: int = 0) -> list[DataFile]:
        """Put a staged file where its table can name it; one without rows goes nowhere."""
        try:
            rows = pq.read_metadata(path).num_rows
        except FileNotFoundError:
            raise PplugError(f"{path} vanished before it was published: run the command again") from None
        if not rows:
            return []
        file = DataFile(new_name(self.name, ds, self.run_id, born), ds, path.stat().st_size, rows)
        self.store.put(file.name, path)
        return [file]

    def replace_night(self, table: DeltaTable, ds: date, files: Sequence[Path | DataFile], since: Counts) -> None:
        """Replace a night in one commit; another night that is committed in between costs another attempt."""
        mine = [put for file in files if isinstance(file, Path) for put in self.put(ds, file)]
        theirs = [file for file in files if isinstance(file, DataFile) and file.rows]
        new = {file.name: file for file in [*mine, *theirs]}
        night, before = f"ds={ds.isoformat()}", dict(since)
        lost: CommitFailedError | None = None
        for _ in range(ATTEMPTS):
            if counts_of(table, ds) != before:
                break
            live = {file.name: file for file in live_files(self.name, table) if file.ds == ds}
            added = [file for file in new.values() if file.name not in live]  # a run that died may have committed some
            removed = [file for file in live.values() if file.name not in new]
            try:
                return self._commit(table, Change(added, removed, {night: before[night] + 1, SWAP: before[SWAP]}))
            except CommitFailedError as error:
                lost = error
                table.update_incremental()
        self.store.delete(file.name for file in mine)
        raise CommitConflict(
            f"{self.name} {night} was written by another run meanwhile: run the command again"
        ) from lost

    def change(self, table: DeltaTable, change: Change) -> None:
        """Add files to their nights, and take out others, in one commit."""
        try:
            self._commit(table, change)
        except CommitFailedError as error:
            # any other failure leaves them: the commit may be made
            self.store.delete(file.name for file in change.added)
            raise CommitConflict(f"{self.name} was written by another run meanwhile: run the command again") from error

    def _commit(self, table: DeltaTable, change: Change) -> None:
        """Commit files that are in the store; of two commits to one version with a count in common the second fails.

        Delta's own check sees only files that were removed: two writers of a night that was empty would both win.
        """
        facts = {"run_id": self.run_id, "row_count": str(sum(file.rows for file in change.added))}
        transactions = [Transaction(*count) for count in change.counts.items()]
        with named_causes(f"{self.store}/{self.name}"):
            table.create_write_transaction(
                [*(file.remove_action() for file in change.removed), *(file.add_action() for file in change.added)],
                "append",
                TABLES[self.name],
                ["ds"],
                commit_properties=CommitProperties(custom_metadata=facts, app_transactions=transactions),
                post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=self.store.folder is None),
            )
            if self.store.folder is not None:
                settle_log(table, self.store.folder / self.name)
