"""Run the command line: the one place where an exception becomes a line on stderr and an exit code."""

import gc
import logging
import os
import re
import shlex
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from embedder.devices import core_count
from embedder.errors import PplugError, error_line
from pipelines.command.console import message, quiet_libraries
from pipelines.command.progress import waiting
from pipelines.command.settings import OptionNames, Settings
from pipelines.command.streams import open_closed_streams
from pipelines.tables.damage import damage_line

INTERRUPTED = 130

_COMMAND = re.compile(r"`pplug (?P<words>[^`]+)`")

NEW_OBJECTS = 20_000
"""After so many new objects Python searches them for garbage; instead of its own 700 or 2,000."""


@dataclass
class State:
    """What the options of `pplug` itself say to its commands; `ctx.obj` of Typer."""

    is_debug: bool = False
    settings: Settings = field(default_factory=Settings)  # what pplug.toml says
    config: Path | None = None  # --config, if it was given on the command line
    warehouse: str | None = None  # --warehouse, likewise


def run_app(app: typer.Typer, args: Sequence[str] | None) -> int:
    """Run a command and return its exit code."""
    open_closed_streams()
    prepare_environment()
    heed_termination()
    quiet_libraries()
    state = State()
    try:
        with waiting():
            code = app(args, prog_name="pplug", obj=state, standalone_mode=False)
    except Exception as error:
        message(with_places(told_line(error), state), logging.ERROR, error if state.is_debug else None)
        return error.exit_code if isinstance(error, PplugError | TyperException) else 1
    if code == INTERRUPTED:  # Typer turns Ctrl-C into this
        message("interrupted: the same command goes on where it was")
    return code or 0


def heed_termination() -> None:
    """Let SIGTERM interrupt a command as Ctrl-C does: what it did is recorded, and the system ignores it for process 1.

    A parent that had it ignored keeps that.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def told_line(error: Exception) -> str:
    """What is wrong, the value seen, and the next move."""
    if isinstance(error, PplugError):
        return str(error)
    if isinstance(error, TyperException):
        context: Any = getattr(error, "ctx", None)
        said = error.format_message().replace("Value error, ", "").rstrip(".")  # pydantic's words for ours
        return f"{said}: see `{context.command_path if context else 'pplug'} --help`"
    if line := damage_line(error):
        return line
    return f"{error_line(error)} (not expected: --debug shows all of it)"


def with_places(line: str, state: State) -> str:
    """The line, whose commands look in the places that this one was given."""

    def completed(command: re.Match[str]) -> str:
        words = command["words"]
        before = f"--config {shlex.quote(str(state.config))} " if state.config else ""
        behind = f" --warehouse {shlex.quote(str(state.warehouse))}" if state.warehouse else ""
        return command[0] if "--help" in words else f"`pplug {before}{words}{behind}`"

    return _COMMAND.sub(completed, line)


def prepare_environment() -> None:
    """Set what torch and tokenizers read when they are imported, unless the user has, and how often Python cleans up.

    Python would search all objects of all imported modules again and again for garbage: 0.75 seconds of a job's start.
    """
    gc.set_threshold(NEW_OBJECTS)
    os.environ.setdefault("OMP_NUM_THREADS", str(core_count()))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads cost 4 to 7 times when a core is shared
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")  # of 1024 pieces of code of 0.5 MB each
    os.environ.setdefault("LRU_CACHE_CAPACITY", "32")  # torch keeps its plans of these as well, 1024 of 0.3 MB each
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own allocator keeps what Arrow freed
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # hub ids are read from the local cache


def option_names(command: object, path: str = "") -> OptionNames:
    """The flags of each command and the parameters they set, as pplug.toml may name them."""
    if isinstance(command, TyperGroup):
        inner = (option_names(sub, f"{path} {name}".strip()) for name, sub in command.commands.items())
        return {name: flags for names in inner for name, flags in names.items()}
    params: Sequence[Any] = getattr(command, "params", ())
    return {path: {flag.lstrip("-"): param.name for param in params for flag in param.opts if flag.startswith("--")}}
