"""What an operator asks first: which runs there were, how they ended, what they cost, and what runs now."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from pipelines.nights.runs import utc_now
from pipelines.store.leases import runs_under_way
from pipelines.tables.views import asked_table
from pipelines.tables.warehouse import Warehouse


def list_runs(warehouse: Warehouse, ds: date | None = None, job: str | None = None) -> Iterator[dict[str, Any]]:
    """Runs that are in no table yet, then all others, the newest first; only those of a night and a job if given."""
    recorded = asked_table(warehouse, "runs", "jobs/recorded_runs")
    over = recorded.to_pylist()
    leases = [
        {**other.row, "status": "killed" if other.seems_dead() else "running"}
        for other in runs_under_way(warehouse.store)
    ]
    begun = [_as_row(run, recorded.column_names) for run in leases]
    known = {row["run_id"] for row in over}
    for row in [*(run for run in begun if run["run_id"] not in known), *over]:
        if ds in (None, row["ds"]) and job in (None, row["job"]):
            yield row


def _as_row(run: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """A run under way with the columns of one that is over; what is not known yet is null."""
    started_at = datetime.fromisoformat(run["started_at"])
    known = {"ds": date.fromisoformat(run["ds"]), "seconds": (utc_now() - started_at).total_seconds()}
    naive = started_at.astimezone(UTC).replace(tzinfo=None)  # as DuckDB gives it
    return dict.fromkeys(columns) | dict(run) | known | {"started_at": naive, "config": json.dumps(run["config"])}
