"""What a job would do, without doing it: the rows of `--dry-run`."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Cost:
    """What the shards of a run cost; `config` of its record keeps it."""

    rows: int
    """Rows of the shards that the run did itself; others were there already."""
    shard_seconds: float
    """Wall time from the first shard to the last."""
    model_seconds: float
    """Time in which models computed, of all workers."""


@dataclass(frozen=True)
class Speed:
    """How long a job takes."""

    startup_seconds: float
    """To load the models, to publish, and whatever else does not grow with the night."""
    seconds_per_row: float
    """To read and to write."""
    seconds_per_token: float
    """To compute."""

    def seconds(self, rows: int, tokens: int) -> float:
        """Estimated time of a night."""
        return self.startup_seconds + rows * self.seconds_per_row + tokens * self.seconds_per_token


def speed_of(warehouse: Warehouse, job: str, sample: Callable[[], object], sample_tokens: int) -> Speed:
    """The speed of the largest of the last runs of a job, or of a sample of so many tokens where it never ran."""
    last = asked_table(warehouse, "runs", "jobs/last_cost", {"job": job}).to_pylist()
    if last and last[0]["tokens"]:  # a plug with labels reads none
        tokens, seconds = last[0]["tokens"], last[0]["seconds"]
        cost = Cost(
            **json.loads(last[0]["config"]).get("cost", {"rows": 1, "shard_seconds": seconds, "model_seconds": seconds})
        )
        model_seconds = min(cost.model_seconds, cost.shard_seconds)  # workers side by side compute more than that
        other_seconds = cost.shard_seconds - model_seconds
        return Speed(seconds - cost.shard_seconds, other_seconds / max(1, cost.rows), model_seconds / tokens)
    if not sample_tokens:
        return Speed(0, 0, 0)
    start = time.perf_counter()
    sample()
    return Speed(0, 0, (time.perf_counter() - start) / sample_tokens)
