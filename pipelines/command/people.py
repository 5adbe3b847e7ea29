"""The commands that look at one answer or one user."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.command import options as opt
from pipelines.command.answered import said
from pipelines.command.console import message
from pipelines.command.progress import progress_bars
from pipelines.command.streams import write_out
from pipelines.command.tables import OutputFormat

if TYPE_CHECKING:
    from pipelines.explain import Explanation

app = typer.Typer(rich_markup_mode=None)


@app.command()
@opt.grouped
def explain(
    ctx: typer.Context,
    task_id: Annotated[str, typer.Argument(metavar="TASK_ID", help="The task, as in `tasks`.")],
    plug: opt.TrainedPlugs = [],  # noqa: B006  typer wants a list; nobody changes it
    ds: opt.TaskNight = None,
    *,
    models: opt.Answering,
    common: opt.Common,
) -> None:
    """Show why a task was answered as it was.

    The task, its answer, and the items that weighed most. With --plug also what is answered with somebody else's
    persona, with that of a new user, and without a plug.

    Example: pplug explain t1 --plug plugs/news
    """
    from pipelines.answers.models import GenerateConfig
    from pipelines.explain import explain as explain_task

    with progress_bars():
        found = explain_task(common.tables, task_id, plug, GenerateConfig(**vars(models)), opt.kinds_of(ctx), ds)
    if common.for_people:
        found = as_read(found)
    common.show([found.task], whole=True)
    if plug:
        common.show(found.answers, "arm", whole=True)
    hidden = ("ds", "task_id", "user_id", "item_rank", "kind", "item_id")
    common.show(found.items, *hidden, whole=True)


def as_read(found: "Explanation") -> "Explanation":
    """An explanation in the words of people."""
    from pipelines.verdicts.words import kind_words

    task = {**found.task, "kind": kind_words(found.task["kind"]), "answer": said(found.task["answer"])}
    return replace(found, task=task, answers=[{**row, "answer": said(row["answer"])} for row in found.answers])


@app.command()
@opt.grouped
def user(
    user_id: Annotated[str, typer.Argument(metavar="USER_ID", help="The id as it stands in the tables.")],
    export: opt.Export = None,
    *,
    common: opt.Common,
) -> None:
    """Show what is known of a user: themes of the persona, how it moved, who is alike, and every answer.

    With --export also write every row of the user as JSON: what an access request asks for.

    Example: pplug user ann --export ann.json
    """
    from pipelines.user import export_user, user_facts

    found = user_facts(common.tables, user_id)
    left_out = ("input", "queued_at", "score", "persona_source", "persona_ds", "finish_reason")
    for heading, rows, hidden in (
        ("Themes of the persona", found.themes, ()),
        ("How the persona moved", found.moved, ()),
        ("Users who are alike", found.alike, ("ds", "last_posted_at", "item_count")),
        ("Tasks and answers", found.tasks, left_out),
    ):
        if common.form is OutputFormat.TABLE:
            write_out(f"\n{heading}\n\n")
        common.show(rows, *hidden, whole=rows is found.themes)
    if export:
        message(f"{export_user(common.tables, user_id, export):,} rows written to {export}")
