"""The command `pplug`: each command parses, calls one function and prints.

Rows go to stdout, everything else to stderr. What a command needs is imported by it, so `pplug --help` answers at once.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedder.errors import PplugError
from pipelines.command import options as opt
from pipelines.command.boundary import option_names, run_app
from pipelines.command.console import message, print_rows, progress_bars, rows_of
from pipelines.command.settings import read_settings

if TYPE_CHECKING:
    from pipelines.answers.models import GenerateConfig

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
ingest = typer.Typer(rich_markup_mode=None, help="Put histories and tasks into the warehouse.")
app.add_typer(ingest, name="ingest")


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context, config: opt.ConfigFile = None, debug: opt.Debug = False, version: opt.Version = False
) -> None:
    """Nightly batch jobs that give every user a personal answer from one frozen language model.

    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 too many rows rejected; 4 an input is missing; 130 interrupted.

    Example: pplug demo
    """
    settings = read_settings(config, option_names(ctx.command))
    ctx.default_map = dict(settings.defaults)
    ctx.obj.kinds = settings.kinds
    if ctx.invoked_subcommand is None:
        sys.stderr.write(ctx.get_help() + "\n")
        raise typer.Exit(2)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where sample, tables and plug go.")] = Path("demo"),
    dry_run: opt.DryRun = False,
    as_json: opt.AsJson = False,
    debug: opt.Debug = False,
) -> None:
    """Run the whole job on a generated sample.

    Example: pplug demo my-demo
    """
    from pipelines.demo import plan_demo, run_demo

    if dry_run:
        return print_rows([asdict(plan_demo())], as_json=as_json)
    with progress_bars() as progress:
        result = run_demo(folder, progress)
    print_rows(result.looked_at, as_json=as_json, hidden=("ds", "user_id", "kind", "item_id", "posted_at"))
    print_rows(result.arms, as_json=as_json)


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
    common.show_counts(ingest_lamp(*what, kind=kind, undated=undated, dry_run=common.dry_run))


@ingest.command("histories")
@opt.grouped
def ingest_histories(ctx: typer.Context, files: opt.Files, ds: opt.IngestNight, *, common: opt.Counted) -> None:
    """Ingest what users wrote or did.

    The same file twice changes nothing; bad rows go to `rejects`.

    Example: pplug ingest histories histories.jsonl --ds 2026-11-01
    """
    from pipelines.ingest import ingest_histories

    common.show_counts(ingest_histories(common.new_tables, files, ds, opt.kinds_of(ctx), dry_run=common.dry_run))


@ingest.command("tasks")
@opt.grouped
def ingest_tasks(ctx: typer.Context, files: opt.Files, ds: opt.IngestNight, *, common: opt.Counted) -> None:
    """Queue tasks for a night.

    Example: pplug ingest tasks tasks.jsonl --ds 2026-11-01
    """
    from pipelines.ingest import ingest_tasks

    common.show_counts(ingest_tasks(common.new_tables, files, ds, opt.kinds_of(ctx), dry_run=common.dry_run))


@app.command()
@opt.grouped
def train(
    ctx: typer.Context,
    plug: opt.NewPlug,
    kind: opt.KindName = None,
    until: opt.Until = None,
    tasks: opt.TaskNights = [],  # noqa: B006  typer wants a list; nobody changes it
    epochs: opt.Epochs = 8,
    aggregation: opt.Aggregation = "attention",
    unseen_users: opt.UnseenUsers = False,
    *,
    models: opt.ModelNames,
    common: opt.Writing,
) -> None:
    """Train a plug through the frozen LLM.

    One plug is for one kind of task. A run that was killed goes on where it was.

    Example: pplug train --plug plugs/news --kind LaMP_2N --until 2026-10-31
    """
    from llm_jobs.training import TrainConfig
    from pipelines.answers.models import GenerateConfig
    from pipelines.train import PlugChoice, plan_train, train_job

    config, training = GenerateConfig(**vars(models)), TrainConfig(epochs=epochs)
    choice = PlugChoice(aggregation, unseen_users)
    what = (common.tables, plug, kind, until, tasks, config, training, opt.kinds_of(ctx), choice)
    if common.dry_run:
        return common.show([asdict(plan_train(*what))])
    with progress_bars() as progress:
        result = train_job(*what, progress=progress)
    common.show([asdict(loss) for loss in result.losses])
    message(f"{result.example_count} examples; {result.skipped_leak_count} items skipped: theirs is a task's text")


@app.command()
@opt.grouped
def encode(
    ctx: typer.Context,
    ds: opt.Night,
    max_vectors: opt.MaxVectors = 64,
    force: opt.Force = False,
    *,
    models: opt.EncoderNames,
    common: opt.Counted,
) -> None:
    """Encode all histories into persona vectors.

    Every user's full history, as of the night; vectors of earlier nights are used again.

    Example: pplug encode --ds 2026-11-01
    """
    from pipelines.encode import EncodeConfig, encode_night, plan_encode

    what = (common.tables, ds, EncodeConfig(max_vectors=max_vectors, **vars(models)), opt.kinds_of(ctx))
    if common.dry_run:
        return common.show([asdict(plan_encode(*what))])
    with progress_bars() as progress:
        record = encode_night(*what, force=force, progress=progress)
    common.show_counts(record, "config", "versions", "error")


@app.command()
@opt.grouped
def generate(
    ctx: typer.Context,
    ds: opt.Night,
    plug: opt.Plugs,
    engine: opt.Engine = "transformers",
    force: opt.Force = False,
    *,
    models: opt.ModelNames,
    common: opt.Counted,
) -> None:
    """Answer the night's tasks, each for its own user.

    A task that no plug covers goes to `rejects`.

    Example: pplug generate --ds 2026-11-01 --plug plugs/news
    """
    from pipelines.answers.models import GenerateConfig
    from pipelines.generate import generate_night, plan_generate

    what = (common.tables, ds, plug, GenerateConfig(engine=engine, **vars(models)), opt.kinds_of(ctx))
    if common.dry_run:
        return common.show([asdict(plan_generate(*what))])
    with progress_bars() as progress:
        record = generate_night(*what, force=force, progress=progress)
    common.show_counts(record, "config", "versions", "error")


@app.command()
@opt.grouped
def evaluate(
    ctx: typer.Context,
    ds: opt.Night,
    controls: opt.Controls = False,
    engine: opt.Engine = "transformers",
    plug: opt.EvaluatedPlugs = [],  # noqa: B006  typer wants a list; nobody changes it
    *,
    compared: opt.Compared,
    models: opt.ModelNames,
    common: opt.Writing,
) -> None:
    """Measure the night's outputs with LaMP's metrics.

    With --controls the same tasks are answered, but not kept, for other users, for nobody and without the plug. With
    --compare it is in every other way that the same LLM can be personalised, too: see docs/quality.md, and try
    `pplug evaluate --ds 2026-11-01 --compare --plug plugs/news --rivals none,bm25_4,label_mode`.

    Example: pplug evaluate --ds 2026-11-01 --controls --plug plugs/news
    """
    from pipelines.answers.models import GenerateConfig
    from pipelines.evaluate import evaluate_night, plan_evaluate

    plugs = opt.control_plugs(plug, is_wanted=controls or compared.compare)
    config = GenerateConfig(engine=engine, **vars(models))
    if compared.compare:
        return compare_plugs(ctx, ds, plugs, config, compared, common)
    what = (common.tables, ds, opt.kinds_of(ctx))
    if common.dry_run:
        return common.show([asdict(plan_evaluate(*what, plugs=plugs, config=config))])
    with progress_bars() as progress:
        found = evaluate_night(*what, plugs=plugs, config=config, progress=progress)
    common.show(rows_of(found), "run_id", "ds")


def compare_plugs(
    ctx: typer.Context,
    ds: date,
    plugs: list[Path],
    config: "GenerateConfig",
    compared: opt.Compared,
    common: opt.Writing,
) -> None:
    """What `pplug evaluate --compare` does."""
    from pipelines.compare import CompareConfig, compare_night, plan_compare
    from pipelines.rivals.table import printed_tables

    what = (common.tables, ds, opt.kinds_of(ctx), plugs, config)
    compare = CompareConfig(compared.kind, compared.names, compared.lora_users)
    if common.dry_run:
        return common.show([asdict(plan_compare(*what, compare))])
    with progress_bars() as progress:
        found = compare_night(*what, compare, progress=progress)
    if common.as_json:
        return common.show(rows_of(found))
    for rows, hidden in printed_tables(rows_of(found)):
        common.show(rows, *hidden)


@app.command()
@opt.grouped
def query(
    name: Annotated[str, typer.Argument(help="A file of sql/; for a wrong name the error lists them.")],
    param: opt.Params = [],  # noqa: B006  typer wants a list; nobody changes it
    *,
    common: opt.Common,
) -> None:
    """Run one of the queries that come with pplug.

    Example: pplug query task_coverage -p ds=2026-11-01
    """
    from pipelines.tables.queries import run_query
    from pipelines.tables.views import connect

    params = dict(map(opt.key_and_value, param))
    with connect(common.tables) as db:
        common.show(rows_of(run_query(db, name, params)))


@app.command()
@opt.grouped
def sql(statement: Annotated[str, typer.Argument(help="One DuckDB query.")], *, common: opt.Common) -> None:
    """Run any DuckDB query that only reads.

    Example: pplug sql "select kind, count(*) as item_count from histories group by kind"
    """
    from pipelines.tables.queries import lock_down, run_sql
    from pipelines.tables.views import connect

    with connect(common.tables) as db:
        lock_down(db, [common.warehouse])
        common.show(rows_of(run_sql(db, statement)))


@app.command()
@opt.grouped
def check(ds: opt.CheckNight = None, *, common: opt.Common) -> None:
    """Look for rows that break a promise; none means pass.

    Example: pplug check --ds 2026-11-01
    """
    from pipelines.tables.queries import run_checks
    from pipelines.tables.views import connect

    with connect(common.tables) as db:
        found = run_checks(db, ds)
    failed = {name: rows for name, rows in found.items() if rows.num_rows}
    if failed:
        common.show({"check": name, "row": row} for name, rows in failed.items() for row in rows_of(rows))
        raise PplugError(f"{len(failed)} of {len(found)} checks failed: {', '.join(failed)}: read sql/checks/*.sql")
    message(f"all {len(found)} checks passed")


@app.command()
@opt.grouped
def report(ds: opt.Night, out: opt.ReportFile, *, common: opt.Writing) -> None:
    """Write what happened in a night as one HTML file, without a user's id or text.

    Example: pplug report --ds 2026-11-01 --out report.html
    """
    from pipelines.report import night_sections, write_report
    from pipelines.tables.views import connect

    with connect(common.tables) as db:
        sections = night_sections(db, ds)
    if not common.dry_run:
        write_report(out, ds, sections)
    common.show({"section": section.title, "row_count": len(section.rows)} for section in sections)


@app.command()
@opt.grouped
def forget(
    user_id: Annotated[
        str, typer.Argument(metavar="USER_ID", help="The id as it stands in the tables; no part is a pattern.")
    ],
    plug: opt.TrainedPlugs = [],  # noqa: B006  typer wants a list; nobody changes it
    *,
    common: opt.Writing,
) -> None:
    """Remove a user from all tables, old versions and shards.

    Rows of theirs that come later are refused. Of the plugs named it lists those that were trained with the user.

    Example: pplug forget user-17 --plug plugs/news
    """
    from pipelines.forget import forget_user

    found = forget_user(common.tables, user_id, plug, dry_run=common.dry_run)
    common.show(map(asdict, found))
    if not found:
        message("nothing of this user is there; rows of theirs that come later are refused")


@app.command()
@opt.grouped
def expire(keep: opt.Keep, common: opt.Writing) -> None:
    """Drop old nights of personas, answers and rejects.

    Histories, tasks, evaluations, runs and the vectors that later nights take over stay.

    Example: pplug expire --keep 30
    """
    from pipelines.expire import expire_nights

    common.show(map(asdict, expire_nights(common.tables, keep, dry_run=common.dry_run)))


@app.command()
@opt.grouped
def runs(common: opt.Common) -> None:
    """List all runs, the newest first.

    Example: pplug runs
    """
    from pipelines.tables.queries import run_sql
    from pipelines.tables.views import connect

    with connect(common.tables) as db:
        common.show(rows_of(run_sql(db, "from runs order by started_at desc, run_id")), "config", "versions")


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run_app(app, args)
