"""Where the nights lie that nothing disturbed."""

import itertools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from night_jobs import JOBS, Job


@dataclass(frozen=True)
class Nights:
    """The folders of two nights that nothing disturbed."""

    root: Path
    calls: dict[Job, Mapping[str, int]] = field(default_factory=dict[Job, Mapping[str, int]])
    """For each job the calls and returns inside each phase."""
    numbers: itertools.count = field(default_factory=itertools.count)

    def before(self, job: Job) -> Path:
        """The state that a job finds."""
        return self.root / str(JOBS.index(job))

    def after(self, job: Job) -> Path:
        """The state that it leaves."""
        return self.root / str(JOBS.index(job) + 1)

    def copy_before(self, job: Job) -> Path:
        """A folder for one run of a job."""
        folder = self.root / f"run-{next(self.numbers)}"
        shutil.copytree(self.before(job), folder)
        return folder
