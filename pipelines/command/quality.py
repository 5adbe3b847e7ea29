"""The commands that make a plug and measure it."""

import shutil
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedder.errors import UsageError
from pipelines.command import options as opt
from pipelines.command.boundary import with_places
from pipelines.command.console import message
from pipelines.command.progress import progress_bars
from pipelines.command.streams import is_terminal, write_out
from pipelines.command.tables import ENDLESS, OutputFormat, rows_of
from pipelines.tables import Row

if TYPE_CHECKING:
    from llm_jobs.training.data import TrainConfig
    from pipelines.answers.models import GenerateConfig
    from pipelines.train import TrainResult

app = typer.Typer(rich_markup_mode=None)


@dataclass(frozen=True)
class Compared:
    """What `evaluate --compare` takes."""

    compare: Annotated[
        bool, opt.option("--compare", "Answer again in every other way to personalise; keep the numbers.")
    ] = False
    kind: Annotated[str | None, opt.option("--kind", "With --compare: only this kind.", callback=opt.kind_name)] = None
    methods: Annotated[
        str, opt.option("--methods", "With --compare: names of methods, like none,bm25_4; all unless given.")
    ] = ""
    lora_users: Annotated[
        int, opt.option("--lora-users", "With --compare: users who get a LoRA of their own.", min=0)
    ] = 0
    folds: Annotated[
        int,
        opt.option("--folds", "With --compare: cut users into so many folds; train on the others of each.", min=0),
    ] = 0
    seeds: Annotated[int, opt.option("--seeds", "With --folds: trainings of every trained method.", min=1)] = 3
    epochs: Annotated[int, opt.option("--epochs", "With --folds: passes over the examples.", min=1)] = 3
    aggregation: Annotated[
        Literal["attention", "turns"],
        opt.option("--aggregation", "With --folds: of the plug itself; turns takes no training."),
    ] = "attention"
    limit: Annotated[
        int | None, opt.option("--limit", "With --folds: most examples of all users, in turn one of each.", min=1)
    ] = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.methods.split(",") if name.strip())


@app.command()
@opt.grouped
def train(
    ctx: typer.Context,
    plug: opt.NewPlug,
    kind: opt.KindName = None,
    until: opt.Until = None,
    tasks: opt.TaskNights = [],  # noqa: B006  typer wants a list; nobody changes it
    epochs: opt.Epochs = 3,
    seed: opt.Seed = 0,
    aggregation: opt.Aggregation = "attention",
    turns: opt.Turns = None,
    limit: opt.Limit = None,
    *,
    models: opt.ModelNames,
    common: opt.Writing,
) -> None:
    """Train a plug, of free answers through the frozen LLM.

    One plug is for one kind of task. That of a closed kind learns to point at choices without the LLM, and --epochs
    does not change it. A run that was killed goes on where it was. Prompts whose keys and values have no room in
    --memory (here 6G unless given) are read again in every epoch; the process takes up to 3.5 GB more than that.
    It ends with a verdict, and warns of a plug that answers worse than a guess among the labels: try another --seed.
    With --aggregation turns nothing is trained: each task of free answers is asked after the user's nearest items, as
    earlier turns of the conversation.

    Example: pplug train --plug plugs/news --kind LaMP_2N --until 2026-10-31
    """
    from pipelines.answers.models import GenerateConfig
    from pipelines.nights.runs import utc_now
    from pipelines.tables.views import asked_table
    from pipelines.train import plan_train, train_job
    from pipelines.training_data import PlugChoice
    from pipelines.verdicts.trained import next_line

    today, training = utc_now().date(), training_config(epochs, models.memory, seed)
    choice = PlugChoice(kind, until or today, tuple(tasks), aggregation, limit, turns)
    what = (common.tables, plug, choice, GenerateConfig(**vars(models)), training, opt.kinds_of(ctx))
    if common.dry_run:
        return common.show([asdict(plan_train(*what))])
    with progress_bars() as progress:
        result = train_job(*what, progress=progress)
    show_training(result, common)
    queued = asked_table(common.tables, "tasks", "jobs/task_nights").to_pylist()
    message(with_places(next_line(plug, result.kind, queued, tasks, today), ctx.obj))


def show_training(result: "TrainResult", common: opt.Writing) -> None:
    """Print the losses; say how many examples there were, and whether the plug is worth having."""
    from pipelines.verdicts.trained import training_verdict

    if result.losses or not common.for_people:
        common.show(result.rows)
    if not result.losses:
        message("Nothing to train: the language model will read the user's nearest items as earlier turns.")
        return
    left_out = {"theirs is a task's text": result.skipped_leak_count, "too long for the LLM": result.skipped_long_count}
    told = "".join(f"; {count:,} skipped: {reason}" for reason, count in left_out.items() if count)
    message(f"{result.example_count:,} examples{told}")
    held_out = (result.losses, result.held_out_users, result.loss_without_plug, result.loss_without_history)
    message(training_verdict(*held_out, is_closed=result.is_closed))


def training_config(epochs: int, memory: int | None, seed: int = 0) -> "TrainConfig":
    """How plugs are trained, with --memory for the keys and values of prompts where it is given."""
    from llm_jobs.training.data import TrainConfig

    config = TrainConfig(epochs=epochs, seed=seed)
    return config if memory is None else replace(config, cache_gib=memory / 2**30)


@app.command()
@opt.grouped
def evaluate(
    ctx: typer.Context,
    ds: opt.NightDate,
    controls: opt.Controls = False,
    plug: opt.EvaluatedPlugs = [],  # noqa: B006  typer wants a list; nobody changes it
    *,
    compared: Compared,
    models: opt.Answering,
    common: opt.Writing,
) -> None:
    """Measure the night's outputs with LaMP's metrics.

    With --controls the same tasks are answered, but not kept, for other users, for nobody and without the plug. With
    --compare it is in every other way that the same LLM can be personalised, too: see docs/quality.md, and try
    `pplug evaluate --ds 2026-11-01 --compare --plug plugs/news --methods none,bm25_4,label_mode`. With --compare
    --folds 5 it is by plugs and baselines that never met their users, trained for it and kept in the folder --plug,
    where a run that was killed goes on.

    Example: pplug evaluate --ds 2026-11-01 --controls --plug plugs/news
    """
    from pipelines.answers.models import GenerateConfig
    from pipelines.evaluate import evaluate_night, plan_evaluate, scored_users

    config = GenerateConfig(**vars(models))
    if compared.folds or compared.compare:
        return compare(ctx, ds, plug, config, compared, common)
    plugs = opt.control_plugs(plug, is_wanted=controls)
    what = (common.tables, ds, opt.kinds_of(ctx))
    if common.dry_run:
        return common.show([asdict(plan_evaluate(*what, plugs=plugs, config=config))])
    with progress_bars() as progress:
        found = evaluate_night(*what, plugs=plugs, config=config, progress=progress)
    show_evaluations(common, list(rows_of(found)), scored_users(common.tables, ds))


@app.command()
@opt.grouped
def audit(
    ctx: typer.Context,
    ds: opt.NightDate,
    plug: opt.AuditedPlugs = [],  # noqa: B006  typer wants a list; nobody changes it
    users: opt.AuditedUsers = 200,
    seed: opt.Seed = 0,
    *,
    models: opt.ModelNames,
    common: opt.Writing,
) -> None:
    """Attack the warehouse's own vectors, and plugs, and say how much they give away.

    Texts are read back from vectors, users are found again in another night and by what they wrote since, and with
    --plug it is told from its losses who was in its training. Beside each number stands what chance gives. Takes
    minutes; docs/privacy.md says what the numbers mean and what protects.

    Example: pplug audit --ds 2026-11-01 --plug plugs/news
    """
    from pipelines.answers.models import GenerateConfig
    from pipelines.audit.audit import AuditConfig, audit_night
    from pipelines.verdicts.audited import audit_lines

    if common.dry_run:
        return common.show([{"job": "audit", "ds": ds, "most_users": users, "plugs": len(plug)}])
    config = AuditConfig(users, seed)
    with progress_bars() as progress:
        what = (common.tables, ds, opt.kinds_of(ctx), config, GenerateConfig(**vars(models)), plug)
        found = list(rows_of(audit_night(*what, progress=progress)))
    common.show(audit_lines(found) if common.for_people else found)
    return None


def show_evaluations(common: opt.Writing, rows: list[Row], user_counts: Mapping[str, int]) -> None:
    """Print what was measured: for a person a table for each kind and metric, those of slices, then the verdicts."""
    from pipelines.command.evaluations import metric_tables, slice_tables, verdicts_of

    if common.form is not OutputFormat.TABLE:
        return common.show(rows)
    for heading, lines in [*metric_tables(rows), *slice_tables(rows)]:
        write_out(f"\n{heading}\n\n")
        common.show(lines, "arm")
    width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else ENDLESS
    for kind, sentence in verdicts_of(rows, user_counts).items():
        write_out(f"\n{textwrap.fill(f'{kind}: {sentence}', width)}\n")
    return None


def compare(
    ctx: typer.Context,
    ds: date,
    plugs: list[Path],
    config: "GenerateConfig",
    compared: Compared,
    common: opt.Writing,
) -> None:
    """What `pplug evaluate --compare` does, on folds or with plugs that are there."""
    from pipelines.compare import CompareConfig, compare_night, plan_compare
    from pipelines.evaluate import scored_users
    from pipelines.folds import FoldConfig, compare_folds, plan_folds

    night = (common.tables, ds, opt.kinds_of(ctx))
    wanted = CompareConfig(compared.kind, compared.names, compared.lora_users)
    if compared.aggregation != "attention" and not compared.folds:
        raise UsageError(f"--aggregation {compared.aggregation} goes with --folds: without, the plugs say theirs")
    if compared.folds:
        if plugs[1:]:
            raise UsageError(f"--folds keeps its plugs in one folder, saw --plug {plugs[0]} and --plug {plugs[1]}")
        train = training_config(compared.epochs, config.memory)
        place = plugs[0] if plugs else None
        folds = FoldConfig(compared.folds, compared.seeds, train, compared.limit, place, compared.aggregation)
        plan, run = partial(plan_folds, *night, wanted, folds), partial(compare_folds, *night, config, wanted, folds)
    else:
        what = (*night, opt.control_plugs(plugs, is_wanted=True), config, wanted)
        plan, run = partial(plan_compare, *what), partial(compare_night, *what)
    if common.dry_run:
        return common.show([asdict(plan())])
    with progress_bars() as progress:
        found = run(progress=progress)
    show_evaluations(common, list(rows_of(found)), scored_users(common.tables, ds))
