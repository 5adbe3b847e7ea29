"""Write what happened in a night as one HTML file that needs nothing else: no script, no font, no network.

    sql/*.sql ─▶ sections ─▶ report.html (a template) ─▶ FILE.html

It names no user and cites no text, so a report that was sent round needs no correction when a user is forgotten.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import duckdb
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from embedder.errors import InputMissing, PplugError
from pipelines.tables.queries import run_query

Row = Mapping[str, Any]

TEMPLATE: Final = "report.html"
COST_NIGHTS: Final = 14
"""Nights whose cost is shown."""


@dataclass(frozen=True)
class Section:
    """One table of the report."""

    title: str
    meaning: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class _Source:
    """The query that a section shows."""

    title: str
    meaning: str
    query: str
    hidden: tuple[str, ...] = ()
    """Columns that are left out: ids and texts of users, and what is the same in every row."""
    has_night: bool = True
    """The query takes the night; else `keep` chooses from what it finds."""
    keep: Callable[[Sequence[Row], date], Sequence[Row]] = lambda rows, ds: rows


def _of_night(rows: Sequence[Row], ds: date) -> Sequence[Row]:
    return [row for row in rows if row["ds"] == ds]


def _nights_up_to(rows: Sequence[Row], ds: date) -> Sequence[Row]:
    nights = sorted({row["ds"] for row in rows if row["ds"] <= ds})[-COST_NIGHTS:]
    return [row for row in reversed(rows) if row["ds"] in nights]


_COST_HIDDEN = ("status", "started_at", "seconds", "rows_in", "rows_out", "rows_rejected", "tokens")

SOURCES: Final = (
    _Source("What ran", "The newest run of each job.", "night_summary", ("ds", "all_seconds", "all_tokens")),
    _Source("Answers", "The tasks of each kind, by how they were answered.", "task_coverage", ("ds",)),
    _Source("Personas", "How many of the users asked for have one.", "persona_coverage", ("ds",)),
    _Source("Refused rows", "By reason.", "reject_reasons", ("ds", "example_row_id", "example_detail")),
    _Source(
        "Evaluation",
        "Each metric with its 95% interval over users, and the difference to the night evaluated before.",
        "evaluation_history",
        ("ds", "run_id"),
        has_night=False,
        keep=_of_night,
    ),
    _Source("Drift", "How near personas are to those of the night before: cosines.", "drift_summary", ("ds",)),
    _Source("Personas behind", "Users with newer items than their persona, as of now.", "staleness", has_night=False),
    _Source(
        "Cost",
        f"All runs of the last {COST_NIGHTS} nights.",
        "night_summary",
        _COST_HIDDEN,
        has_night=False,
        keep=_nights_up_to,
    ),
)


def night_sections(db: duckdb.DuckDBPyConnection, ds: date) -> list[Section]:
    """What there is to tell of a night.

    Raises:
        InputMissing: if no job ran for that night.
    """
    sections = [_section(db, source, ds) for source in SOURCES]
    if not sections[0].rows:
        raise InputMissing(f"no job ran for the night {ds}: run `pplug runs` to see the nights there are")
    return sections


def render(ds: date, sections: Sequence[Section]) -> str:
    """The report as HTML; whatever comes from the tables is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["cell"] = cell
    return environment.get_template(TEMPLATE).render(ds=ds, sections=sections)


def write_report(path: Path, ds: date, sections: Sequence[Section]) -> None:
    """Write the report; the file appears whole or not at all.

    Raises:
        PplugError: if the file cannot be written.
    """
    text = render(ds, sections)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        fresh.write_text(text, encoding="utf8")
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise PplugError(f"{path} cannot be written ({error.strerror}): name another file with --out") from error


def cell(value: object) -> str:
    """A value as the report shows it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _section(db: duckdb.DuckDBPyConnection, source: _Source, ds: date) -> Section:
    found = run_query(db, source.query, {"ds": ds.isoformat()} if source.has_night else {}).to_pylist()
    shown = [
        {name: value for name, value in row.items() if name not in source.hidden} for row in source.keep(found, ds)
    ]
    return Section(source.title, source.meaning, shown)
