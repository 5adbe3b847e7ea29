"""The commands that only look: queries, checks, the report and the list of runs."""

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from embedder.errors import PplugError, UsageError
from pipelines.command import options as opt
from pipelines.command.console import message
from pipelines.command.options import DATE, PATH, option
from pipelines.command.tables import rows_of

app = typer.Typer(rich_markup_mode=None)


Params = Annotated[list[str], option("--param", "A parameter of the query, key=value; repeatable.", "-p")]
RunNight = Annotated[date | None, option("--ds", "Only runs of this night.", **DATE)]
RunJob = Annotated[str | None, option("--job", "Only runs of this job, like encode.")]
ReportFile = Annotated[Path, option("--out", "File to write, like report.html.", **PATH)]
Examples = Annotated[int, option("--examples", "Answers to show with their texts, which are personal.", min=0)]
CheckNight = Annotated[date | None, option("--ds", "Only this night; all nights unless given.", **DATE)]


@app.command()
@opt.grouped
def query(
    name: Annotated[str, typer.Argument(help="A file of sql/; for a wrong name the error lists them.")],
    param: Params = [],  # noqa: B006  typer wants a list; nobody changes it
    *,
    common: opt.Common,
) -> None:
    """Run one of the queries that come with pplug.

    Example: pplug query task_coverage -p ds=2026-11-01
    """
    from pipelines.tables.queries import run_query
    from pipelines.tables.views import connect

    pairs = [one.partition("=") for one in param]
    if wrong := ["".join(pair) for pair in pairs if not all(pair[:2])]:
        raise UsageError(f"-p {wrong[0]!r} is not key=value: write for example -p ds=2026-11-01")
    params = {key: value for key, _, value in pairs}
    with connect(common.tables) as db:
        common.show(rows_of(run_query(db, name, params)))


@app.command()
@opt.grouped
def sql(statement: Annotated[str, typer.Argument(help="One DuckDB query.")], *, common: opt.Common) -> None:
    """Run any DuckDB query that only reads.

    Example: pplug sql "select kind, count(*) as item_count from histories group by kind"
    """
    from pipelines.tables.queries import connect_locked, run_statement

    with connect_locked(common.tables) as db:
        common.show(rows_of(run_statement(db, statement)))


@app.command()
@opt.grouped
def check(ds: CheckNight = None, *, common: opt.Common) -> None:
    """Look for rows that break a promise; none means pass. Also say how many answers were cut or repeat themselves.

    Example: pplug check --ds 2026-11-01
    """
    from pipelines.command.answered import tell_of_answers
    from pipelines.tables.queries import run_checks
    from pipelines.tables.views import connect

    with connect(common.tables) as db:
        found = run_checks(db, ds)
    failed = {name: rows for name, rows in found.items() if rows.num_rows}
    if failed:
        common.show({"check": name, "row": row} for name, rows in failed.items() for row in rows_of(rows))
        raise PplugError(f"{len(failed)} of {len(found)} checks failed: {', '.join(failed)}: read sql/checks/*.sql")
    message(f"all {len(found)} checks passed")
    tell_of_answers(common.tables, ds)


@app.command()
@opt.grouped
def report(ds: opt.NightDate, out: ReportFile, examples: Examples = 0, *, common: opt.Writing) -> None:
    """Write what happened in a night as one HTML file that needs no network.

    Without --examples it holds no user's id or text.

    Example: pplug report --ds 2026-11-01 --out report.html
    """
    from pipelines.report.attention import headline, needs_attention
    from pipelines.report.night import night_numbers
    from pipelines.report.page import render, write_page
    from pipelines.tables.views import connect

    with connect(common.tables) as db:
        night = night_numbers(db, ds, examples)
    if not common.dry_run:
        write_page(out, render(night))
    found = needs_attention(night)
    if not common.for_people:
        common.show(night.sections)
    elif found:
        common.show(({"needs attention": one.told, "command": one.command} for one in found), whole=True)
    message(f"{headline(night, found)[1]} {out}")


@app.command()
@opt.grouped
def runs(ds: RunNight = None, job: RunJob = None, *, common: opt.Common) -> None:
    """List all runs, the newest first; those under way too.

    Example: pplug runs
    """
    from pipelines.nights.runs import list_runs

    common.show(list_runs(common.tables, ds, job), "ended_at", "config", "versions")
