"""The command `pplug`: each command parses, calls one function and prints.

Rows go to stdout, everything else to stderr. What a command needs is imported by it, so `pplug --help` answers at once.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines.command import kinds, people, quality, reading, upkeep
from pipelines.command import options as opt
from pipelines.command.boundary import option_names, run_app
from pipelines.command.progress import progress_bars
from pipelines.command.settings import read_settings

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
ingest = typer.Typer(rich_markup_mode=None, help="Put histories and tasks into the warehouse.")
app.add_typer(ingest, name="ingest")
app.add_typer(kinds.app)
app.add_typer(people.app)
app.add_typer(quality.app)
app.add_typer(reading.app)
app.add_typer(upkeep.app)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    config: opt.ConfigFile = None,
    debug: opt.Debug = False,
    log_format: opt.LogFormat = None,
    version: opt.Version = False,
) -> None:
    """Nightly batch jobs that give every user a personal answer from one frozen language model.

    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 too many rows rejected; 4 an input is missing; 130 interrupted.

    Example: pplug demo
    """
    settings = read_settings(config, option_names(ctx.command))
    ctx.default_map = dict(settings.defaults)
    ctx.obj.kinds, ctx.obj.sources = settings.kinds, settings.sources
    ctx.obj.warehouse_options, ctx.obj.beam_options = settings.warehouse_options, settings.beam_options
    ctx.obj.config = config if opt.is_given(ctx, "config") else None
    if ctx.invoked_subcommand is None:
        sys.stderr.write(ctx.get_help() + "\n")
        raise typer.Exit(2)


@app.command()
@opt.grouped
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where sample, tables and plug go.")] = Path("demo"),
    dry_run: opt.DryRun = False,
    *,
    common: opt.Printed,
) -> None:
    """Run the whole job on a generated sample.

    Example: pplug demo my-demo
    """
    from pipelines.demo import plan_demo, run_demo

    if dry_run:
        return common.show([asdict(plan_demo())])
    with progress_bars() as progress:
        result = run_demo(folder, progress)
    common.show(result.looked_at, "ds", "user_id", "kind", "item_id", "posted_at")
    common.show(result.arms)
    return None


@ingest.command("lamp")
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


@ingest.command("histories")
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


@ingest.command("tasks")
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


@app.command(**opt.BEAM)
@opt.grouped
def encode(
    ctx: typer.Context,
    ds: opt.Night,
    max_vectors: opt.MaxVectors = 128,
    force: opt.Force = False,
    rebuild: opt.Rebuild = False,
    *,
    models: opt.EncoderNames,
    common: opt.Computing,
) -> None:
    """Encode all histories into persona vectors.

    Every user's full history, as of the night; vectors of earlier nights are used again. A night that is done is left
    as it is.

    Example: pplug encode --ds 2026-11-01
    """
    from pipelines.encode import EncodeConfig, encode_night, plan_encode

    what = (common.tables, ds, EncodeConfig(max_vectors=max_vectors, **vars(models)), opt.kinds_of(ctx))
    if common.dry_run:
        return common.show([asdict(plan_encode(*what, force=force, rebuild=rebuild))])
    with progress_bars() as progress:
        record = encode_night(*what, force=force, rebuild=rebuild, progress=progress, runner=common.runner(ctx))
    common.show_counts(record, "config", "versions", "error")


@app.command(**opt.BEAM)
@opt.grouped
def generate(
    ctx: typer.Context,
    ds: opt.Night,
    plug: opt.Plugs,
    engine: opt.Engine = "transformers",
    force: opt.Force = False,
    max_persona_age: opt.MaxPersonaAge = None,
    *,
    models: opt.Answering,
    common: opt.Computing,
) -> None:
    """Answer the night's tasks, each for its own user.

    A task that no plug covers goes to `rejects`. A night that is done is left as it is.

    Example: pplug generate --ds 2026-11-01 --plug plugs/news
    """
    from pipelines.answers.models import GenerateConfig
    from pipelines.command.answered import show_side_by_side, tell_of_answers
    from pipelines.command.tables import Form
    from pipelines.generate import generate_night, plan_generate

    what = (common.tables, ds, plug, GenerateConfig(engine=engine, **vars(models)), opt.kinds_of(ctx))
    if common.dry_run:
        return common.show([asdict(plan_generate(*what, force=force))])
    with progress_bars() as progress:
        runner = common.runner(ctx)
        record = generate_night(*what, force=force, max_persona_age=max_persona_age, progress=progress, runner=runner)
    tell_of_answers(common.tables, ds)
    if common.form is Form.TABLE and not runner.is_elsewhere:
        show_side_by_side(*what)
    common.show_counts(record, "config", "versions", "error")


@app.command(**opt.BEAM)
@opt.grouped
def nightly(
    ctx: typer.Context,
    ds: opt.Night,
    plug: opt.Plugs,
    max_vectors: opt.MaxVectors = 128,
    force: opt.Force = False,
    rebuild: opt.Rebuild = False,
    max_persona_age: opt.MaxPersonaAge = None,
    *,
    models: opt.Answering,
    common: opt.Computing,
) -> None:
    """Encode, generate and check a night.

    Each step is a row of `runs`; a step that is done is left as it is. The exit code is that of the worst step.

    Example: pplug nightly --ds 2026-11-01 --plug plugs/news
    """
    from pipelines.command.answered import tell_of_answers
    from pipelines.nightly import Nightly, plan_nightly, run_nightly
    from pipelines.nights.steps import raise_worst

    configs = opt.configs_of(models, max_vectors)
    runner = common.runner(ctx)
    night = Nightly(common.tables, ds, plug, *configs, opt.kinds_of(ctx), force, rebuild, max_persona_age, runner)
    if common.dry_run:
        return common.show(map(asdict, plan_nightly(night)))
    with progress_bars() as progress:
        steps = list(run_nightly(night, common.max_reject_rate, progress))
    common.show(map(asdict, steps))
    raise_worst(steps)
    tell_of_answers(common.tables, ds)


@app.command(**opt.BEAM)
@opt.grouped
def backfill(
    ctx: typer.Context,
    job: opt.Job,
    start: opt.Start,
    end: opt.End,
    plug: opt.Plugs = [],  # noqa: B006  typer wants a list; nobody changes it
    max_vectors: opt.MaxVectors = 128,
    rebuild: opt.Rebuild = False,
    max_persona_age: opt.MaxPersonaAge = None,
    *,
    models: opt.Answering,
    common: opt.Computing,
) -> None:
    """Run the nights of a range that are missing, or whose inputs or settings changed since.

    The oldest first; a night that fails does not stop the rest, and the same command goes on where it was stopped.

    Example: pplug backfill encode --start 2026-11-01 --end 2026-11-07 --dry-run
    """
    from pipelines.backfill import encode_backfill, generate_backfill, plan_nights, run_nights
    from pipelines.nights.steps import raise_worst

    encoding, answering = opt.configs_of(models, max_vectors)
    what = (common.tables, start, end)
    with progress_bars() as progress:
        runner, kinds = common.runner(ctx), opt.kinds_of(ctx)
        if job == "encode":
            opt.no_plugs(plug)
            chosen = encode_backfill(*what, encoding, kinds, rebuild=rebuild, progress=progress, runner=runner)
        else:
            limits = {"max_persona_age": max_persona_age}
            chosen = generate_backfill(*what, plug, answering, kinds, **limits, progress=progress, runner=runner)
        if common.dry_run:
            return common.show([plan.in_minutes() for plan in plan_nights(chosen)])
        steps = list(run_nights(chosen, common.max_reject_rate))
    common.show(map(asdict, steps))
    raise_worst(steps)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run_app(app, args)
