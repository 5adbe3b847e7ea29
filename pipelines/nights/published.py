"""Whether a night is published already, and from which inputs and settings.

live files of the tables read ─┐
settings ──────────────────────┴─▶ Work ─▶ folder of manifests, config of the run ─▶ the next run: anything left to do?

A file of a table is never changed and never named twice, so equal names are equal rows.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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

PUBLISHED_ROWS = "published_rows"
"""Key of the config of a run: how many rows of each table it published."""


@dataclass(frozen=True)
class Work:
    """Fingerprints of all that the rows of a night depend on."""

    inputs_sha256: str
    settings_sha256: str

    @classmethod
    def of(cls, inputs: Iterable[DataFile], settings: Mapping[str, Any], based_on: Sequence[str] = ()) -> "Work":
        """Fingerprint the work on some files of tables, and on what some runs made, with some settings."""
        names = sorted(file.name.rpartition("/")[2] for file in inputs)
        return cls(canonical_sha256({"files": names, "based_on": list(based_on)}), canonical_sha256(settings))

    @property
    def sha256(self) -> str:
        """One fingerprint of both."""
        return canonical_sha256(asdict(self))


@dataclass(frozen=True)
class PublishedRun:
    """The run whose rows a night holds now."""

    run_id: str
    rows_in: int
    rows_out: int
    rows_rejected: int
    config: Mapping[str, Any]

    def state(self, work: Work) -> str:
        """DONE if this is the work that the run did, or why it must be done."""
        if "work" not in self.config:
            return MISSING
        was = Work(**self.config["work"])
        if was.inputs_sha256 != work.inputs_sha256:
            return INPUTS_CHANGED
        return DONE if was == work else SETTINGS_CHANGED


@dataclass(frozen=True)
class NightInputs:
    """A night as its job finds it, read once, so that its state, its plan and its run agree."""

    warehouse: Warehouse
    job: str
    ds: date
    writes: Sequence[str]
    """Tables of which the night is replaced."""
    reads: Mapping[str, Sequence[DataFile]]
    """The files of each table that the workers read."""
    files: Sequence[DataFile]
    """Those that the rows of the night depend on."""
    settings: Mapping[str, Any]
    """Whatever else they depend on."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the workers are told besides."""
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the run record says besides."""
    seen: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the driver alone needs to know."""
    based_on: Sequence[str] = ()
    """Runs whose rows those of the night add to."""

    @property
    def work(self) -> Work:
        """Fingerprints of files and settings."""
        return Work.of(self.files, self.settings, self.based_on)

    def counts(self) -> dict[str, Counts]:
        """What each table that is written counts of the night now."""
        return {name: self.warehouse.counts(name, self.ds) for name in self.writes}

    def published(self) -> PublishedRun | None:
        """Find the run that published the night.

        None if none did, if it was killed in between, if others wrote to the night since, or if its rows were dropped.
        """
        wanted = {"job": self.job, "ds": self.ds}
        found = asked_table(self.warehouse, "runs", "jobs/published_run", wanted).to_pylist()
        if not found:
            return None
        run = PublishedRun(**found[0] | {"config": json.loads(found[0]["config"])})
        night = f"ds={self.ds.isoformat()}"
        if {name: counts[night] for name, counts in self.counts().items()} != run.config["published"]:
            return None
        return run if self.live_rows() == run.config.get(PUBLISHED_ROWS) else None

    def live_rows(self) -> dict[str, int]:
        """How many rows of the night each table holds that is written."""
        return {
            name: sum(file.rows for file in self.warehouse.live(name) if file.ds == self.ds) for name in self.writes
        }

    def state(self) -> str:
        """DONE, or why the night must be run."""
        published = self.published()
        return published.state(self.work) if published else MISSING
