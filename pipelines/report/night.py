"""Read the numbers of a night from the tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any, Final

import duckdb

from embedder.errors import InputMissing
from pipelines.report.personas import Rows, drift_and_map
from pipelines.tables import Row
from pipelines.tables.queries import run_query
from pipelines.tables.views import run_sql
from pipelines.verdicts.audited import audit_lines
from pipelines.verdicts.evaluated import Verdict, kind_verdicts
from pipelines.verdicts.words import kind_words

NIGHTS: Final = 14  # nights that trends show, the night itself the last


@dataclass(frozen=True)
class NightNumbers:
    """All that the report tells; rows are those of the queries of sql/ and sql/report/."""

    ds: date
    runs: Rows  # night_summary of the night
    coverage: Rows  # task_coverage of the nights up to this one
    personas: Rows  # persona_coverage of these nights
    rejects: Rows
    quality: Rows
    history: Rows  # evaluation_history of these nights
    slices: Rows
    verdicts: Mapping[str, Verdict]
    drift: Rows
    staleness: Rows
    cost: Rows
    answers: Rows
    histogram: Rows
    plugs: Rows
    audit: Rows  # what attacks on the night's vectors and plugs got
    map: Rows  # x, y and item_count of some personas (personas.py)
    examples: Rows

    @property
    def sections(self) -> list[Row]:
        """How much there is of what the report tells."""
        tonight = [row for row in self.coverage if row["ds"] == self.ds]
        personas = [row for row in self.personas if row["ds"] == self.ds]
        drift = [row for row in self.drift if row["ds"] == self.ds]
        counted = {
            "What ran": self.runs,
            "Answers": tonight,
            "Personas": personas,
            "Refused rows": self.rejects,
            "Evaluation": self.quality,
            "Drift": drift,
            "Personas behind": self.staleness,
            "Cost": self.cost,
        }
        return [{"section": title, "row_count": len(rows)} for title, rows in counted.items()]


def night_numbers(db: duckdb.DuckDBPyConnection, ds: date, example_count: int = 0) -> NightNumbers:
    """Read what there is to tell of a night.

    Args:
        db: with the views of the tables.
        ds: the night.
        example_count: answers that are shown with their texts.

    Raises:
        InputMissing: if no job ran for that night.
    """
    night = {"ds": ds.isoformat()}
    runs = run_query(db, "night_summary", night).to_pylist()
    if not runs:
        raise InputMissing(f"no job ran for the night {ds}: run `pplug runs` to see the nights there are")
    of_nights, of_night = partial(rows_of_nights, db, ds), partial(rows_of_night, db, ds)
    quality = of_night("report/paired_values")
    drift, personas = drift_and_map(db, ds, NIGHTS, named=example_count > 0)
    return NightNumbers(
        ds=ds,
        runs=runs,
        coverage=of_nights("task_coverage"),
        personas=of_nights("persona_coverage"),
        rejects=run_query(db, "reject_reasons", night).to_pylist(),
        quality=quality,
        history=of_nights("evaluation_history"),
        slices=of_night("report/slice_values"),
        verdicts=kind_verdicts(quality, {row["kind"]: row["user_count"] for row in of_night("jobs/scored_users")}),
        drift=drift,
        staleness=run_query(db, "staleness", {}).to_pylist(),
        cost=of_nights("night_cost"),
        answers=of_night("report/answer_facts"),
        histogram=of_night("report/answer_histogram"),
        plugs=of_night("report/plugs"),
        audit=audit_lines(run_sql(db, "report/audit_values", {"ds": ds}).to_pylist()),
        map=personas,
        examples=of_night("report/examples", limit=example_count) if example_count else [],
    )


def rows_of_nights(db: duckdb.DuckDBPyConnection, ds: date, query: str) -> Rows:
    """The rows of a query of sql/ for the nights that trends show."""
    found = [row for row in run_query(db, query, {}).to_pylist() if row["ds"] <= ds]
    shown = sorted({row["ds"] for row in found})[-NIGHTS:]
    return with_words([row for row in found if row["ds"] in shown])


def rows_of_night(db: duckdb.DuckDBPyConnection, ds: date, name: str, **params: Any) -> Rows:
    """The rows of a statement below sql/ for the night itself."""
    return with_words(run_sql(db, name, {"ds": ds, **params}).to_pylist())


def with_words(rows: Rows) -> Rows:
    """The rows with their kinds as people call them."""
    return [{**row, "kind": kind_words(row["kind"])} if "kind" in row else row for row in rows]
