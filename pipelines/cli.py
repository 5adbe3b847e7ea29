"""The command `pplug`, assembled of command/: each command parses, calls one function and prints.

Rows go to stdout, everything else to stderr. What a command needs is imported by it, so `pplug --help` answers at once.
"""

import sys
from collections.abc import Sequence

import typer

from pipelines.command import ingest, nights, people, quality, reading, starting, upkeep
from pipelines.command import options as opt
from pipelines.command.boundary import option_names, run_app
from pipelines.command.settings import read_settings
from pipelines.command.values import is_given

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(ingest.app, name="ingest")
for group in (starting, nights, quality, reading, people, upkeep):
    app.add_typer(group.app)


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
    settings = ctx.obj.settings = read_settings(config, option_names(ctx.command))
    ctx.default_map = dict(settings.defaults)
    ctx.obj.config = config if is_given(ctx, "config") else None
    if ctx.invoked_subcommand is None:
        sys.stderr.write(ctx.get_help() + "\n")
        raise typer.Exit(2)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run_app(app, args)
