"""Delete for good what the newest version of a table does not need; nobody may write to the table meanwhile."""

import contextlib
import time
from collections.abc import Iterable

from deltalake import DeltaTable

from embedder.durable import sync
from pipelines.tables.delta_log import sync_log
from pipelines.tables.warehouse import Warehouse

READER_SECONDS = 2.0
"""Time that readers who opened a table before a commit get until the files that it took out are deleted."""

LOG_RETENTION = "delta.logRetentionDuration"
DELTA_DEFAULT = "interval 30 days"


def vacuum(warehouse: Warehouse, names: Iterable[str], reader_seconds: float = READER_SECONDS) -> None:
    """Delete every file of some tables that their newest versions do not hold, those of runs that died among them.

    A query that began before the last commit and is not done after `reader_seconds` fails for want of a file.
    """
    tables = {name: table for name in names if (table := warehouse.table(name)) is not None}
    full = {name: table for name, table in tables.items() if _vacuum(table, dry_run=True)}
    if full:
        time.sleep(reader_seconds)
    for table in full.values():
        _vacuum(table, dry_run=False)
    if warehouse.store.folder is not None:
        for name in tables:
            for night in list(warehouse.folder(name).glob("ds=*")):
                sync(night)  # a power loss would bring back what was deleted
                with contextlib.suppress(OSError):  # it is not empty
                    night.rmdir()
            sync_log(warehouse.folder(name))


def rewrite_log(warehouse: Warehouse, name: str) -> None:
    """Leave of a table's log a checkpoint of the newest version, and none of the older entries."""
    for retention in ("interval 0 seconds", DELTA_DEFAULT):
        warehouse.create(name).alter.set_table_properties({LOG_RETENTION: retention})
        table = warehouse.create(name)  # as it is with that retention
        table.create_checkpoint()
        _sync(warehouse, name)  # before what it stands for goes
        table.cleanup_metadata()
    _sync(warehouse, name)


def _sync(warehouse: Warehouse, name: str) -> None:
    if warehouse.store.folder is not None:
        sync_log(warehouse.folder(name))


def _vacuum(table: DeltaTable, *, dry_run: bool) -> list[str]:
    return table.vacuum(retention_hours=0, dry_run=dry_run, enforce_retention_duration=False, full=True)
