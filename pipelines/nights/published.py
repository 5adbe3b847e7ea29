"""Whether a night is published already, and from which inputs and settings.

live files of the tables read ─┐
settings ──────────────────────┴─▶ Work ─▶ folder of shards, config of the run ─▶ the next run: is anything left to do?

A file of a table is never changed and never named twice, so equal names are equal rows.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from llm_jobs.kinds import Kind
from pipelines.nights.shards import canonical_sha256
from pipelines.tables.parquet import night_of, stats
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse, run_of

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
    def of(cls, inputs: Iterable[Path], settings: Mapping[str, Any]) -> "Work":
        """The work on some files of tables with some settings."""
        return cls(canonical_sha256({"files": sorted(path.name for path in inputs)}), canonical_sha256(settings))

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
    versions: Mapping[str, int]
    """Delta versions of the tables that are read."""
    files: Sequence[Path]
    """Those of their files that the rows of the night depend on."""
    settings: Mapping[str, Any]
    """Whatever else they depend on."""
    kinds: Mapping[str, Kind]

    @property
    def work(self) -> Work:
        """Fingerprints of files and settings."""
        return Work.of(self.files, self.settings)

    def published(self) -> PublishedRun | None:
        """The run that published the night.

        None if none did, if it was killed in between, if two wrote to it, or if not all of its rows are there any more.
        """
        live = {
            name: [path for path in self.warehouse.files(name) if night_of(path) == self.ds] for name in self.writes
        }
        run_ids = {run_of(path) for files in live.values() for path in files}
        if len(run_ids) > 1:
            return None
        with connect(self.warehouse, self.warehouse.versions(["runs"])) as db:
            params = {"job": self.job, "ds": self.ds, "run_id": next(iter(run_ids), "")}
            found = run_sql(db, "jobs/published_run", params).to_pylist()
        if not found:
            return None
        run = PublishedRun(**found[0] | {"config": json.loads(found[0]["config"])})
        known = run.config.get(PUBLISHED_ROWS, {self.writes[-1]: None})  # earlier versions did not count them
        counts = {name: sum(stats(path)["numRecords"] for path in live[name]) for name in known}
        is_whole = counts == known if PUBLISHED_ROWS in run.config else bool(run.rows_out) == bool(sum(counts.values()))
        return run if is_whole else None

    def state(self) -> str:
        """DONE, or why the night must be run."""
        published = self.published()
        return published.state(self.work) if published else MISSING
