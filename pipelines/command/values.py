"""What the words behind options mean: dates, paths, sizes and names of kinds, and what some options do at once."""

import os
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer

from embedder.errors import UsageError
from pipelines.command.console import format_logs, loud_libraries

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_date(text: str | date) -> date:
    """Read a night; a default is one already."""
    try:
        return text if isinstance(text, date) else date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date like 2026-11-01") from None


def parse_path(text: str | Path) -> Path:
    """Read a path or a file:// URL; `~` is the home folder in a variable or a settings file too."""
    from pipelines.store.stored import local_path

    return local_path(text)


def parse_source(text: str | Path) -> Path:
    """Read a path, or the URI of objects in a store."""
    from pipelines.intake.remote import is_remote

    return Path(text) if is_remote(Path(text)) else parse_path(text)


def parse_size(text: str | int) -> int:
    """Read an amount of memory like "800M" or "4G", in powers of 1,024; a default is one already."""
    if isinstance(text, int):
        return text
    number, unit = text[:-1], text[-1:].upper()
    if unit not in UNITS or not number.isascii() or not number.isdigit() or not int(number):
        raise UsageError(f"{text!r} is no size: write for example --memory 800M or --memory 4G")
    return int(number) * UNITS[unit]


def kind_name(ctx: typer.Context, value: str | None) -> str | None:
    """The name that tables know a kind by: `headline` is LaMP_4, unless pplug.toml has a headline of its own."""
    from llm_jobs.kinds import SPOKEN

    state = ctx.find_root().obj  # there is none while only the help is wanted
    return value if value is None or (state and value in state.settings.kinds) else SPOKEN.get(value, value)


def note_debug(ctx: typer.Context, value: bool) -> bool:
    """Remember --debug, wherever it stands."""
    if value:
        ctx.find_root().obj.is_debug = True
        loud_libraries()
    return value


def is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def set_log_format(value: str | None) -> str | None:
    """Obey --log-format, wherever it stands."""
    if value is not None:
        format_logs(as_json=value == "json")
    return value


def find_warehouse(ctx: typer.Context, value: str) -> Any:
    """Turn --warehouse into a store, with the credentials of [warehouse.options]."""
    from pipelines.store.stored import open_store

    state = ctx.find_root().obj
    if is_given(ctx, "warehouse"):
        state.warehouse = value  # for the commands that an error names
    return open_store(value, state.settings.warehouse_options if state else {})


def limit_queries(value: int | None) -> int | None:
    """Obey --query-memory, in the processes that this one starts too."""
    if value is not None:
        from pipelines.tables.views import QUERY_MEMORY

        os.environ[QUERY_MEMORY] = f"{max(1, value >> 20)}M"
    return value


def keep_private(value: bool) -> bool:
    """Obey --private: whatever this process makes from now on, its owner alone may read."""
    if value:
        os.umask(0o077)
    return value


def show_version(value: bool) -> None:
    """Answer --version."""
    if value:
        sys.stdout.write(f"pplug {version('pplug')}\n")
        raise typer.Exit
