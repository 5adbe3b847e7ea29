"""The commands that compute nights, on this machine or on any runner of Apache Beam."""

from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embedder.errors import UsageError
from pipelines.command import options as opt
from pipelines.command.options import DATE, PATH, option
from pipelines.command.progress import progress_bars

if TYPE_CHECKING:
    from pipelines.answers.models import GenerateConfig
    from pipelines.encode import EncodeConfig
    from pipelines.nights.job import NightJob
    from pipelines.nights.runners import Runner
    from pipelines.nights.runs import RunRecord

app = typer.Typer(rich_markup_mode=None)


Plugs = Annotated[list[Path], option("--plug", "Folder of a plug, one for each kind of task; repeatable.", **PATH)]
MaxPersonaAge = Annotated[
    int | None, option("--max-persona-age", "Refuse personas that are more days older than the tasks.", min=0)
]
Job = Annotated[Literal["encode", "generate"], typer.Argument(help="What to run.")]
FirstNight = Annotated[date, option("--start", "First night.", **DATE)]
LastNight = Annotated[date, option("--end", "Last night.", **DATE)]
Force = Annotated[bool, option("--force", "Compute everything anew.")]
Rebuild = Annotated[bool, option("--rebuild", "Encode with another encoder than the nights before.")]

BEAM: dict[str, Any] = {"context_settings": {"allow_extra_args": True}}
"""Of a command that hands on what stands behind `--`."""


@dataclass(frozen=True)
class Computing(opt.Counted):
    """What every command takes that computes nights; what stands behind `--` goes to Apache Beam."""

    workers: Annotated[int, option("--workers", "Processes of this machine that compute.", min=1)] = 1

    def runner(self, ctx: typer.Context) -> "Runner":
        from pipelines.nights.runners import Runner

        if ctx.args and not ctx.args[0].startswith("--"):
            raise UsageError(f"unexpected argument {ctx.args[0]!r}: see `{ctx.command_path} --help`")
        return Runner(self.workers, tuple(ctx.args) or ctx.find_root().obj.settings.beam_options)


@dataclass(frozen=True)
class StoredOptions:
    """How personas are stored."""

    max_vectors: Annotated[int, option("--max-vectors", "Most vectors that stand for one user.", min=1)] = 128
    min_items_per_vector: Annotated[
        int, option("--min-items-per-vector", "No stored vector stands for fewer items; docs/privacy.md.", min=1)
    ] = 1
    no_item_vectors: Annotated[
        bool, option("--no-item-vectors", "Store personas alone; each changed user is encoded anew.")
    ] = False
    noise: Annotated[
        float, option("--noise", "Length of the noise in each item's vector, which has length one.", min=0)
    ] = 0.0
    shard_items: Annotated[int, option("--shard-items", "Most items that a worker encodes at once.", min=1)] = 20_000

    @property
    def settings(self) -> dict[str, Any]:
        from pipelines.personas.protection import Protection

        protection = Protection(self.min_items_per_vector, not self.no_item_vectors, self.noise)
        return {"max_vectors": self.max_vectors, "shard_items": self.shard_items, "protection": protection}


def configs_of(models: opt.Answering, stored: StoredOptions) -> "tuple[EncodeConfig, GenerateConfig]":
    """The settings of both jobs, which share the encoder."""
    from pipelines.answers.models import GenerateConfig
    from pipelines.encode import EncodeConfig

    of_encoder = {field.name: getattr(models, field.name) for field in fields(opt.EncoderNames)}
    return EncodeConfig(**stored.settings, **of_encoder), GenerateConfig(**vars(models))


def run_or_plan(job: "NightJob", ds: date, common: Computing, runner: "Runner") -> "RunRecord | None":
    """Run a night of a job, or print what that would do."""
    from pipelines.nights.night import plan_night, run_night

    if common.dry_run:
        return common.show([asdict(plan_night(job, common.tables, ds))])
    with progress_bars() as progress:
        return run_night(job, common.tables, ds, progress, runner)


@app.command(**BEAM)
@opt.grouped
def encode(
    ctx: typer.Context,
    ds: opt.NightDate,
    force: Force = False,
    rebuild: Rebuild = False,
    *,
    stored: StoredOptions,
    models: opt.EncoderNames,
    common: Computing,
) -> None:
    """Encode all histories into persona vectors.

    Every user's full history, as of the night; vectors of earlier nights are used again. A night that is done is left
    as it is.

    Example: pplug encode --ds 2026-11-01
    """
    from pipelines.encode import EncodeConfig, encode_job

    config, runner = EncodeConfig(**stored.settings, **vars(models)), common.runner(ctx)
    options: dict[str, Any] = {"force": force, "rebuild": rebuild, "runner": runner, "is_plan": common.dry_run}
    if record := run_or_plan(encode_job(config, opt.kinds_of(ctx), **options), ds, common, runner):
        common.show_counts(record, "config", "versions", "error")


@app.command(**BEAM)
@opt.grouped
def generate(
    ctx: typer.Context,
    ds: opt.NightDate,
    plug: Plugs,
    force: Force = False,
    max_persona_age: MaxPersonaAge = None,
    *,
    models: opt.Answering,
    common: Computing,
) -> None:
    """Answer the night's tasks, each for its own user.

    A task that no plug covers goes to `rejects`. A night that is done is left as it is.

    Example: pplug generate --ds 2026-11-01 --plug plugs/news
    """
    from pipelines.answers.models import GenerateConfig
    from pipelines.command.answered import show_side_by_side, tell_of_answers
    from pipelines.command.tables import OutputFormat
    from pipelines.generate import generate_job

    config, kinds, runner = GenerateConfig(**vars(models)), opt.kinds_of(ctx), common.runner(ctx)
    job = generate_job(plug, config, kinds, force=force, max_persona_age=max_persona_age, runner=runner)
    if record := run_or_plan(job, ds, common, runner):
        tell_of_answers(common.tables, ds)
        if common.form is OutputFormat.TABLE and not runner.is_elsewhere:
            show_side_by_side(common.tables, ds, plug, config, kinds)
        common.show_counts(record, "config", "versions", "error")


@app.command(**BEAM)
@opt.grouped
def nightly(
    ctx: typer.Context,
    ds: opt.NightDate,
    plug: Plugs,
    force: Force = False,
    rebuild: Rebuild = False,
    max_persona_age: MaxPersonaAge = None,
    *,
    stored: StoredOptions,
    models: opt.Answering,
    common: Computing,
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

    encoding, answering = configs_of(models, stored)
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


@app.command(**BEAM)
@opt.grouped
def backfill(
    ctx: typer.Context,
    job: Job,
    start: FirstNight,
    end: LastNight,
    plug: Plugs = [],  # noqa: B006  typer wants a list; nobody changes it
    rebuild: Rebuild = False,
    max_persona_age: MaxPersonaAge = None,
    *,
    stored: StoredOptions,
    models: opt.Answering,
    common: Computing,
) -> None:
    """Run the nights of a range that are missing, or whose inputs or settings changed since.

    The oldest first; a night that fails does not stop the rest, and the same command goes on where it was stopped.

    Example: pplug backfill encode --start 2026-11-01 --end 2026-11-07 --dry-run
    """
    from pipelines.backfill import nights_with_histories, nights_with_tasks, plan_nights, run_nights
    from pipelines.encode import encode_job
    from pipelines.generate import generate_job
    from pipelines.nights.steps import raise_worst

    encoding, answering = configs_of(models, stored)
    kinds, runner = opt.kinds_of(ctx), common.runner(ctx)
    if job == "encode":
        if plug:
            raise UsageError(f"encoding takes no plug, saw --plug {plug[0]}: pplug backfill generate ... --plug DIR")
        chosen = encode_job(encoding, kinds, rebuild=rebuild, runner=runner, is_plan=common.dry_run)
    else:
        chosen = generate_job(plug, answering, kinds, max_persona_age=max_persona_age, runner=runner)
    find_nights = {"encode": nights_with_histories, "generate": nights_with_tasks}[job]
    what = (chosen, common.tables, find_nights(common.tables, start, end))
    with progress_bars() as progress:
        if common.dry_run:
            return common.show([asdict(plan) | {"minutes": plan.seconds / 60} for plan in plan_nights(*what)])
        steps = list(run_nights(*what, common.max_reject_rate, progress, runner))
    common.show(map(asdict, steps))
    raise_worst(steps)
