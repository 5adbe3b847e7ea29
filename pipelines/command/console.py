"""What a command says on stderr: messages and logs, as text or as JSON."""

import json
import logging
import os
import sys
import traceback
import warnings
from datetime import UTC, datetime
from typing import TextIO

from pipelines.command.streams import speaks_unicode, visible, visible_json, waiting_line, write_err

OUR_LOGGERS = ("embedder", "llm_jobs", "pipelines")

LIBRARY_SETTINGS = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TORCH_LOGS": "-all",  # only errors: with torchao there it warns of its enumerations
}
"""Environment variables that keep the libraries from writing to stderr."""


class TextLines(logging.Formatter):
    """Time, level and message, in which nothing is left that a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


TEXT_LINES = TextLines("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and where they are known run_id, job and ds."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: str(value) for name in ("run_id", "job", "ds") if (value := getattr(record, name, None))}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return visible_json(json.dumps(line, ensure_ascii=not speaks_unicode(sys.stderr)))


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever stderr is now: a progress bar replaces it while it shows."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(TEXT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        waiting_line.wipe()
        super().emit(record)


def quiet_libraries() -> None:
    """Log what we say, and of what libraries say only errors; call it before they are imported."""
    for name, value in LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.basicConfig(handlers=[_StderrHandler()], level=logging.ERROR, force=True)
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # it logs the traceback of what it then raises
    logging.getLogger("transformers").setLevel(logging.ERROR)  # where CI is set it hands on what it says of itself
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)


def format_logs(*, as_json: bool) -> None:
    """Write lines on stderr as text or as JSON; with JSON also when a run begins and ends."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines() if as_json else TEXT_LINES)
    if as_json:
        tell_everything()


def tell_everything() -> None:
    """Log also what only a machine or a developer wants to read."""
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG)


def loud_libraries() -> None:
    """Show everything, for --debug."""
    for name in LIBRARY_SETTINGS:
        os.environ.pop(name, None)
    warnings.simplefilter("default")
    logging.getLogger().setLevel(logging.INFO)
    for name in ("apache_beam", "transformers"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    tell_everything()


def message(text: str, level: int = logging.INFO, error: Exception | None = None) -> None:
    """One line on stderr, and the traceback of an error if it is given."""
    line = " ".join(text.split())
    if any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers):
        logging.getLogger("pipelines.command").log(level, line, exc_info=error)
        return
    told = "" if error is None else "".join(traceback.format_exception(error))
    write_err(visible(f"{told}{line}\n"))
