"""The commands that put histories and tasks into the warehouse."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.command import options as opt

app = typer.Typer(rich_markup_mode=None, help="Put histories and tasks into the warehouse.")


@app.command("lamp")
@opt.grouped
def ingest_lamp(
    ctx: typer.Context,
    questions: Annotated[Path, typer.Argument(help="LaMP's file of questions with their profiles.")],
    ds: opt.Night,
    outputs: opt.Outputs = None,
    kind: opt.LampKind = None,
    undated: opt.Undated = None,
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
    ctx: typer.Context, files: opt.Files = None, ds: opt.IngestNight = None, *, read: opt.Read, common: opt.Counted
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
    ctx: typer.Context, files: opt.Files = None, ds: opt.IngestNight = None, *, read: opt.Read, common: opt.Counted
) -> None:
    """Queue tasks for a night.

    Forms and rules are those of `pplug ingest histories`.

    Example: pplug ingest tasks tasks.jsonl --ds 2026-11-01
    """
    from pipelines.ingest import ingest_tasks

    what = (common.new_tables, files or [], ds or opt.today(), opt.kinds_of(ctx), read.config(ctx))
    common.show_ingest(ingest_tasks(*what, dry_run=common.dry_run))
