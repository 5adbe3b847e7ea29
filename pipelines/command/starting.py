"""The commands that a person begins with: the demo, which kinds of tasks there are, and a folder to work in."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.command import options as opt
from pipelines.command.console import message
from pipelines.command.progress import progress_bars

app = typer.Typer(rich_markup_mode=None)


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
        return common.show([plan_demo()])
    with progress_bars() as progress:
        looked_at, arms = run_demo(folder, progress)
    common.show(looked_at, "ds", "user_id", "kind", "item_id", "posted_at")
    common.show(arms)
    return None


@app.command()
@opt.grouped
def kinds(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show every field of this kind.", callback=opt.kind_name)
    ] = None,
    *,
    common: opt.Printed,
) -> None:
    """List the kinds of tasks, or every field of one with its meaning and what a task of it looks like.

    Example: pplug kinds headline
    """
    from pipelines.starting.kinds_shown import chosen_kind, field_rows, kind_rows, sample_rows

    found = opt.kinds_of(ctx)
    if name is None:
        return common.show(kind_rows(found, ctx.obj.settings.kinds))
    kind = chosen_kind(name, found)
    common.show(field_rows(kind, as_texts=common.for_people), whole=True)
    common.show(sample_rows(kind), whole=True)
    return None


@app.command()
@opt.grouped
def init(
    ctx: typer.Context,
    kind: Annotated[str, opt.option("--kind", "Kind of the tasks, like rating.", callback=opt.kind_name)],
    file: Annotated[
        Path | None, opt.option("--from", "Your file of histories; its columns are looked at.", **opt.SOURCE)
    ] = None,
    columns: Annotated[
        str, opt.option("--map", "What the file calls our columns, where it is not found out: text=body.")
    ] = "",
    dry_run: opt.DryRun = False,
    *,
    common: opt.Printed,
) -> None:
    """Write a pplug.toml and small files to try it with into this folder, and show the commands that come next.

    A file that is there is left as it is.

    Example: pplug init --kind rating
    """
    from pipelines.starting.columns import look_at
    from pipelines.starting.folder import Start, begin
    from pipelines.starting.kinds_shown import chosen_kind, spoken_name

    found, settings = opt.kinds_of(ctx), ctx.obj.settings
    chosen = chosen_kind(kind, found)
    given = (opt.column_map(columns), settings.warehouse_options)
    looked = None if file is None else look_at(file, chosen, found, *given)
    spoken = spoken_name(kind, settings.kinds) or kind
    begun = begin(Start(chosen, spoken, opt.today(), file, looked, settings.sources), Path(), dry_run=dry_run)
    for line in begun.told:
        message(line)
    common.show(begun.files, whole=True)
    common.show(begun.commands, whole=True)
