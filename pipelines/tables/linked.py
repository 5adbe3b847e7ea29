"""Finished files under their second name, in the folder of a table, and on the disk before a commit names them."""

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Self

from deltalake.transaction import AddAction

from embedder.durable import make_folder, sync
from embedder.errors import PplugError
from pipelines.tables.parquet import stats


@dataclass(frozen=True)
class Linked:
    """A finished file and its second name in the table's folder.

    The first name stays, so that a run that dies before its last commit can publish the same files again.
    """

    source: Path
    path: Path
    ds: date
    facts: dict[str, Any]

    @classmethod
    def of(cls, folder: Path, run_id: str, ds: date, source: Path) -> Self:
        if not source.is_file():
            raise PplugError(f"{source} vanished before it was published: run the command again")
        return cls(source, folder / f"ds={ds}" / f"{run_id}-{uuid.uuid4().hex[:12]}.parquet", ds, stats(source))

    def link(self) -> None:
        make_folder(self.path.parent)
        try:
            os.link(self.source, self.path)
        except OSError:  # a file system without links
            shutil.copyfile(self.source, self.path)
        sync(self.path)

    def add_action(self) -> AddAction:
        written_at = int(self.path.stat().st_mtime * 1000)
        name, night = f"{self.path.parent.name}/{self.path.name}", self.ds.isoformat()
        return AddAction(name, self.path.stat().st_size, {"ds": night}, written_at, True, json.dumps(self.facts))


def link_all(files: Sequence[Linked]) -> None:
    """Give files their second name, and return when they and their names are on the disk."""
    for file in files:
        file.link()
    for night in {file.path.parent for file in files}:
        sync(night)
