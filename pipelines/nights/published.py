"""Whether a night is published already, and from which inputs and settings.

live files of the tables read ─┐
settings ──────────────────────┴─▶ work ─▶ folder of manifests, config of the run ─▶ the next run: anything left to do?

A file of a table is never changed and never named twice, so equal names are equal rows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from pipelines.nights.shards import canonical_sha256
from pipelines.tables.data_files import Counts, DataFile
from pipelines.tables.views import asked_table
from pipelines.tables.warehouse import Warehouse

DONE = "done"
MISSING = "missing"
INPUTS_CHANGED = "inputs changed"
SETTINGS_CHANGED = "settings changed"

PUBLISHED_ROWS = "published_rows"  # key of the config of a run: how many rows of each table it published


@dataclass(frozen=True)
class NightInputs:
    """A night as its job finds it, read once, so that its state, its plan and its run agree."""

    warehouse: Warehouse
    job: str
    ds: date
    writes: Sequence[str]  # tables of which the night is replaced
    reads: Mapping[str, Sequence[DataFile]]  # the files of each table that the workers read
    files: Sequence[DataFile]  # those that the rows of the night depend on
    settings: Mapping[str, Any]  # whatever else they depend on
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what the workers are told besides
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what the run record says besides
    seen: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what the driver alone needs to know
    based_on: Sequence[str] = ()  # runs whose rows those of the night add to
    read_too: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what rows of files besides `files` come to

    @property
    def work(self) -> dict[str, str]:
        """Fingerprints of all that the rows of the night depend on."""
        files = sorted(file.name.rpartition("/")[2] for file in self.files)
        read = {"files": files, "based_on": list(self.based_on)}
        inputs_sha256 = canonical_sha256(read | ({"read_too": dict(self.read_too)} if self.read_too else {}))
        return {"inputs_sha256": inputs_sha256, "settings_sha256": canonical_sha256(self.settings)}

    def counts(self) -> dict[str, Counts]:
        """What each table that is written counts of the night now."""
        return {name: self.warehouse.counts(name, self.ds) for name in self.writes}

    def published(self) -> tuple[str, Mapping[str, Any]]:
        """DONE, or why the night must be run, and the row of the run that published it.

        None did if it was killed in between, if others wrote to the night since, or if its rows were dropped.
        """
        wanted = {"job": self.job, "ds": self.ds}
        found = asked_table(self.warehouse, "runs", "jobs/published_run", wanted).to_pylist()
        config = json.loads(found[0]["config"]) if found else {}
        if "work" not in config:
            return MISSING, {}
        night, rows = f"ds={self.ds.isoformat()}", dict[str, int]()
        for name in self.writes:
            rows[name] = sum(file.rows for file in self.warehouse.live(name) if file.ds == self.ds)
        counts = {name: counts[night] for name, counts in self.counts().items()}
        if (counts, rows) != (config["published"], config.get(PUBLISHED_ROWS)):
            return MISSING, {}
        if config["work"]["inputs_sha256"] != self.work["inputs_sha256"]:
            return INPUTS_CHANGED, found[0]
        return DONE if config["work"] == self.work else SETTINGS_CHANGED, found[0]
