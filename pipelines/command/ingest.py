"""The commands that put histories and tasks into the warehouse."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedder.errors import UsageError
from pipelines.command import options as opt
from pipelines.command.options import DATE, PATH, option
from pipelines.command.values import kind_name, parse_source

if TYPE_CHECKING:
    from pipelines.ingest import IngestConfig

app = typer.Typer(rich_markup_mode=None, help="Put histories and tasks into the warehouse.")


Files = Annotated[
    list[Path] | None,
    typer.Argument(
        parser=parse_source,
        metavar="[SOURCE]...",
        help="Files, folders, globs, or - for stdin; one item or task a row.",
    ),
]
IngestNight = Annotated[date | None, option("--ds", "Night of ingestion.", show_default="today", **DATE)]
LampKind = Annotated[str | None, option("--kind", "Kind of the questions; found out unless given.", callback=kind_name)]
Undated = Annotated[date | None, option("--undated", "Day of items without a date; else they are refused.", **DATE)]
Outputs = Annotated[Path | None, option("--outputs", "LaMP's file of references.", **PATH)]


@dataclass(frozen=True)
class ReadOptions:
    """How the files of an ingestion are read."""

    columns: Annotated[
        str, option("--map", "What a file calls our columns: user_id=author,text=body; the others have our names.")
    ] = ""
    kind: Annotated[
        str | None, option("--kind", "Kind of the rows that name none, like headline.", callback=kind_name)
    ] = None
    sql: Annotated[str | None, option("--sql", "A DuckDB query to read: \"select ... from 'articles.csv'\".")] = None
    like: Annotated[str | None, option("--like", "Read as the table [ingest.NAME] of pplug.toml says.")] = None
    any_year: Annotated[bool, option("--any-year", "Take times of all years, not only from 1990 to the next.")] = False
    overwrite_newer: Annotated[
        bool, option("--overwrite-newer", "Also replace what a later night wrote or deleted.")
    ] = False

    def config(self, ctx: typer.Context) -> "IngestConfig":
        """The same as the job takes it; a flag goes before what is saved under a name."""
        from pipelines.ingest import IngestConfig
        from pipelines.starting.kinds_shown import chosen_kind

        saved = saved_source(ctx, self.like)
        columns = dict(saved.get("map", {})) | opt.column_map(self.columns)
        kind, any_year = self.kind or kind_name(ctx, saved.get("kind")), self.any_year or bool(saved.get("any-year"))
        if kind is not None:
            chosen_kind(kind, opt.kinds_of(ctx))
        return IngestConfig(columns, kind, any_year, self.overwrite_newer, self.sql)


def saved_source(ctx: typer.Context, name: str | None) -> dict[str, Any]:
    """The table [ingest.NAME] of pplug.toml."""
    saved: dict[str, Any] = ctx.find_root().obj.settings.sources
    if name is None:
        return {}
    if name not in saved:
        raise UsageError(f"no [ingest.{name}] in pplug.toml: there are {', '.join(saved) or 'none'}")
    found = {key.replace("_", "-"): value for key, value in saved[name].items()}
    known = {"map": dict, "kind": str, "any-year": bool}
    for key, value in found.items():
        if not isinstance(value, known.get(key, ())):
            raise UsageError(f"[ingest.{name}] {key} = {value!r}: it may have map (a table), kind and any-year")
    return found


@app.command("lamp")
@opt.grouped
def ingest_lamp(
    ctx: typer.Context,
    questions: Annotated[Path, typer.Argument(help="LaMP's file of questions with their profiles.")],
    ds: opt.NightDate,
    outputs: Outputs = None,
    kind: LampKind = None,
    undated: Undated = None,
    *,
    common: opt.Counted,
) -> None:
    """Ingest a LaMP file; each question is a user.

    Example: pplug ingest lamp dev_questions.json --outputs dev_outputs.json --ds 2026-11-01
    """
    from pipelines.ingest import ingest_lamp

    what = (common.new_tables, questions, outputs, ds, opt.kinds_of(ctx))
    common.show_ingest(ingest_lamp(*what, kind=kind, undated=undated, dry_run=common.dry_run))


@app.command("histories")
@opt.grouped
def ingest_histories(
    ctx: typer.Context, files: Files = None, ds: IngestNight = None, *, read: ReadOptions, common: opt.Counted
) -> None:
    """Ingest what users wrote or did.

    JSONL, JSON, CSV, TSV or Parquet, also packed with gzip or zstd; folders, globs, and - for standard input. The same
    file twice changes nothing; bad rows go to `rejects`. Of the rows of a key a deletion wins, then the last one.

    Example: pplug ingest histories histories.jsonl --ds 2026-11-01
    """
    from pipelines.ingest import ingest_histories

    what = (common.new_tables, files or [], ds or opt.today(), opt.kinds_of(ctx), read.config(ctx))
    common.show_ingest(ingest_histories(*what, dry_run=common.dry_run))


@app.command("tasks")
@opt.grouped
def ingest_tasks(
    ctx: typer.Context, files: Files = None, ds: IngestNight = None, *, read: ReadOptions, common: opt.Counted
) -> None:
    """Queue tasks for a night.

    Forms and rules are those of `pplug ingest histories`.

    Example: pplug ingest tasks tasks.jsonl --ds 2026-11-01
    """
    from pipelines.ingest import ingest_tasks

    what = (common.new_tables, files or [], ds or opt.today(), opt.kinds_of(ctx), read.config(ctx))
    common.show_ingest(ingest_tasks(*what, dry_run=common.dry_run))
