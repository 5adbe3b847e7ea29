"""What a command shows: rows on stdout, logs and progress on stderr.

Progress bars show only where stderr is a terminal, so that the log of a nightly job holds no bars.
"""

import json
import logging
import math
import os
import sys
import traceback
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, TextIO

from pipelines.command.streams import is_terminal, speaks_unicode, visible, visible_json, write_err, write_out

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.progress import TaskID
    from rich.table import Table

    from pipelines.nights.runs import Progress

TABLE_ROWS = 1_000
"""Most rows of a printed table; --json prints all."""

OUR_LOGGERS = ("embedder", "llm_jobs", "pipelines")

LIBRARY_SETTINGS = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}
"""Environment variables that keep the libraries from writing to stderr."""

Row = Mapping[str, object]


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
        return _json_line(line, sys.stderr)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever stderr is now: a progress bar replaces it while it shows."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(TEXT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def quiet_libraries() -> None:
    """Log what we say, and of what libraries say only errors; call it before they are imported."""
    for name, value in LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.basicConfig(handlers=[_StderrHandler()], level=logging.ERROR, force=True)
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # it logs the traceback of what it then raises
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
    logging.getLogger("apache_beam").setLevel(logging.NOTSET)
    tell_everything()


@contextmanager
def progress_bars() -> "Generator[Progress]":
    """A function that shows how far a job is; it shows nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    is_shown = is_terminal(sys.stderr)
    console = Console(stderr=True, force_terminal=is_shown)

    class Rate(ProgressColumn):
        """How many a second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.1f}/s")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, disable=not is_shown) as bars:
        tasks: dict[str, TaskID] = {}

        def show(label: str, done: int, total: int) -> None:
            name = label.partition(",")[0]  # what follows the comma may change, as in "steps, loss 0.52"
            if name not in tasks:
                tasks[name] = bars.add_task(label, total=total)
            bars.update(tasks[name], description=label, completed=done, total=total)

        yield show


def print_rows(rows: Iterable[Row], *, as_json: bool, hidden: Sequence[str] = ()) -> None:
    """Print rows on stdout: as a table, or with `as_json` one JSON object a line.

    Args:
        rows: all with the same keys. Dates become ISO text; a number that is not finite becomes null.
        as_json: for machines; every column, every row.
        hidden: columns that the printed table leaves out.
    """
    if as_json:
        lines = (_json_line(_plain(row), sys.stdout) + "\n" for row in rows)
        while (lot := list(islice(lines, TABLE_ROWS))) and write_out("".join(lot)):
            pass
        return
    from rich.console import Console

    left = iter(rows)
    shown = list(islice(left, TABLE_ROWS))
    if shown:
        at_screen = is_terminal(sys.stdout)
        width = None if at_screen else 10_000  # a pipe has no width: never fold
        console = Console(file=sys.stdout, highlight=False, force_terminal=at_screen, width=width)
        with console.capture() as drawn:
            console.print(_table(shown, [name for name in shown[0] if name not in hidden]))
        write_out(drawn.get())
    more = sum(1 for _ in left)
    if more or not shown:
        message(f"{more:,} more rows: --json prints them all" if more else "no rows")


def rows_of(table: "pa.Table") -> Iterator[Row]:
    """The rows of an Arrow table, converted batch by batch."""
    for batch in table.to_batches(max_chunksize=TABLE_ROWS):
        yield from batch.to_pylist()


def message(text: str, level: int = logging.INFO, error: Exception | None = None) -> None:
    """One line on stderr, and the traceback of an error if it is given."""
    line = " ".join(text.split())
    if any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers):
        logging.getLogger("pipelines.command").log(level, line, exc_info=error)
        return
    told = "" if error is None else "".join(traceback.format_exception(error))
    write_err(visible(f"{told}{line}\n"))


def _table(rows: Sequence[Row], names: Sequence[str]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in names:
        is_number = any(isinstance(row[name], int | float | Decimal) for row in rows)
        table.add_column(Text(visible(name)), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(_cell(row[name]))) for name in names))
    return table


def _json_line(value: object, stream: object) -> str:
    """JSON that is text in whatever encoding the stream has."""
    return visible_json(json.dumps(value, ensure_ascii=not speaks_unicode(stream)))


def _plain(value: object) -> object:
    """The value as JSON can hold it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):  # what DuckDB makes of a sum of integers
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else str(value)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple | Mapping):
        return json.dumps(_plain(value), ensure_ascii=False)
    return str(_plain(value))
