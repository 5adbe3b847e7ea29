"""Remove what a run that did not end well left lying about: staged files, and files in tables that no commit took.

Files that belong to finished shards stay: the next run of the night takes them over. Whatever else a table's folder
holds that Delta does not know goes with the next vacuum.
"""

import shutil

from pipelines.store.folder import remove_unfinished
from pipelines.tables.data_files import is_of_run
from pipelines.tables.schema import TABLES
from pipelines.tables.warehouse import Warehouse


def sweep(warehouse: Warehouse, run_id: str) -> None:
    """Remove what is named after a run that is over: its files in tables, unless they are live, and its staging."""
    for table in TABLES:
        there = [entry.name for entry in warehouse.store.list(table) if is_of_run(entry.name, run_id)]
        live = {file.name for file in warehouse.live(table)} if there else set[str]()
        warehouse.store.delete(name for name in there if name not in live)
        if warehouse.store.folder is not None:
            remove_unfinished(warehouse.store.folder / table, run_id)
    if warehouse.store.folder is not None:
        for folder in (warehouse.root / "_staging").glob("*"):
            if run_id in (folder.name, folder.name.rpartition("_")[0]):  # a run's own name may hold a `_` as well
                shutil.rmtree(folder, ignore_errors=True)
