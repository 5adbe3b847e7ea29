"""The commands that compute nights, on this machine or on any runner of Apache Beam."""

from dataclasses import asdict

import typer

from pipelines.command import options as opt
from pipelines.command.progress import progress_bars

app = typer.Typer(rich_markup_mode=None)


@app.command(**opt.BEAM)
@opt.grouped
def encode(
    ctx: typer.Context,
    ds: opt.Night,
    force: opt.Force = False,
    rebuild: opt.Rebuild = False,
    *,
    stored: opt.Stored,
    models: opt.EncoderNames,
    common: opt.Computing,
) -> None:
    """Encode all histories into persona vectors.

    Every user's full history, as of the night; vectors of earlier nights are used again. A night that is done is left
    as it is.

    Example: pplug encode --ds 2026-11-01
    """
    from pipelines.encode import EncodeConfig, encode_night, plan_encode

    what = (common.tables, ds, EncodeConfig(**stored.settings, **vars(models)), opt.kinds_of(ctx))
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
    force: opt.Force = False,
    rebuild: opt.Rebuild = False,
    max_persona_age: opt.MaxPersonaAge = None,
    *,
    stored: opt.Stored,
    models: opt.Answering,
    common: opt.Computing,
) -> None:
    """Encode, generate and check a night.

    Each step is a row of `runs`; a step that is done is left as it is. The exit code is that of the worst step.

    Example: pplug nightly --ds 2026-11-01 --plug plugs/news
    """
    from pipelines.command.answered import tell_of_answers
    from pipelines.encode import encode_job
    from pipelines.generate import generate_job
    from pipelines.nightly import run_nightly
    from pipelines.nights.night import plan_night
    from pipelines.nights.steps import raise_worst

    encoding, answering = opt.configs_of(models, stored)
    kinds, runner = opt.kinds_of(ctx), common.runner(ctx)
    encode = encode_job(encoding, kinds, force=force, rebuild=rebuild, runner=runner, is_plan=common.dry_run)
    age = max_persona_age
    jobs = (encode, generate_job(plug, answering, kinds, force=force, max_persona_age=age, runner=runner))
    if common.dry_run:
        return common.show(asdict(plan_night(job, common.tables, ds)) for job in jobs)
    with progress_bars() as progress:
        steps = list(run_nightly(common.tables, ds, jobs, common.max_reject_rate, progress, runner))
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
    rebuild: opt.Rebuild = False,
    max_persona_age: opt.MaxPersonaAge = None,
    *,
    stored: opt.Stored,
    models: opt.Answering,
    common: opt.Computing,
) -> None:
    """Run the nights of a range that are missing, or whose inputs or settings changed since.

    The oldest first; a night that fails does not stop the rest, and the same command goes on where it was stopped.

    Example: pplug backfill encode --start 2026-11-01 --end 2026-11-07 --dry-run
    """
    from pipelines.backfill import nights_with_histories, nights_with_tasks, plan_nights, run_nights
    from pipelines.encode import encode_job
    from pipelines.generate import generate_job
    from pipelines.nights.steps import raise_worst

    encoding, answering = opt.configs_of(models, stored)
    kinds, runner = opt.kinds_of(ctx), common.runner(ctx)
    if job == "encode":
        opt.no_plugs(plug)
        chosen = encode_job(encoding, kinds, rebuild=rebuild, runner=runner, is_plan=common.dry_run)
        find_nights = nights_with_histories
    else:
        chosen = generate_job(plug, answering, kinds, max_persona_age=max_persona_age, runner=runner)
        find_nights = nights_with_tasks
    what = (chosen, common.tables, find_nights(common.tables, start, end))
    with progress_bars() as progress:
        if common.dry_run:
            return common.show([plan.in_minutes() for plan in plan_nights(*what)])
        steps = list(run_nights(*what, common.max_reject_rate, progress, runner))
    common.show(map(asdict, steps))
    raise_worst(steps)
