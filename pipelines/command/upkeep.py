"""The commands that keep a warehouse in order: forget a user, drop old nights, make few files of many."""

from dataclasses import asdict
from typing import Annotated

import typer

from pipelines.command import options as opt
from pipelines.command.console import message

app = typer.Typer(rich_markup_mode=None)


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

    Histories, tasks, evaluations, runs and the vectors that later nights take over stay; vectors from before a full
    night with another protection go.

    Example: pplug expire --keep 30
    """
    from pipelines.expire import expire_nights

    common.show(expire_nights(common.tables, keep, dry_run=common.dry_run))


@app.command()
@opt.grouped
def compact(common: opt.Writing) -> None:
    """Make few large files of the many small ones that nights left.

    Rows stay as they are. `pplug nightly` does it by itself when it pays.

    Example: pplug compact
    """
    from pipelines.compact import compact_tables

    common.show(compact_tables(common.tables, dry_run=common.dry_run))
