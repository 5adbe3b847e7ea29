"""What a job would do, without doing it: the rows of `--dry-run`."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date

from pipelines.tables.views import asked_table
from pipelines.tables.warehouse import Warehouse


@dataclass(frozen=True)
class Plan:
    """The size of a job."""

    job: str
    ds: date
    user_count: int = 0
    row_count: int = 0
    """Items or tasks."""
    unique_text_count: int = 0
    """Different texts that a model must read."""
    tokens: int = 0
    """Tokens of these texts."""
    seconds: float = 0.0
    """Estimated time."""
    state: str = ""
    """Of a night: done, or why it must be run."""

    def times(self, count: int, job: str) -> "Plan":
        """The plan of a job that does it so many times for the same users."""
        rows, tokens, seconds = count * self.row_count, count * self.tokens, count * self.seconds
        return replace(self, job=job, row_count=rows, tokens=tokens, seconds=seconds)


def estimated_seconds(
    warehouse: Warehouse, job: str, rows: int, tokens: int, sample: Callable[[], object], sample_tokens: int
) -> float:
    """Estimate the time of a night by the largest of the last runs of its job.

    What does not grow with a night (to load the models, to publish), what grows with its rows (to read, to write) and
    what grows with its tokens (to compute) are told apart. A job that never ran is timed on a sample of so many tokens.
    """
    if last := asked_table(warehouse, "runs", "jobs/last_cost", {"job": job}).to_pylist():
        whole = {"rows": 1, "shard_seconds": last[0]["seconds"], "model_seconds": last[0]["seconds"]}
        cost = json.loads(last[0]["config"]).get("cost", whole)  # a training has no shards
        model_seconds = min(cost["model_seconds"], cost["shard_seconds"])  # workers side by side compute more than that
        per_row = (cost["shard_seconds"] - model_seconds) / max(1, cost["rows"])
        startup = last[0]["seconds"] - cost["shard_seconds"]
        return startup + rows * per_row + tokens * model_seconds / last[0]["tokens"]
    if not sample_tokens:
        return 0.0
    start = time.perf_counter()
    sample()
    return tokens * (time.perf_counter() - start) / sample_tokens
