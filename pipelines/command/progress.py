"""How far a job is, on stderr: bars at a terminal; elsewhere, as in a nightly job's log, a line every half minute."""

import logging
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipelines.background import repeated
from pipelines.command.cells import duration
from pipelines.command.streams import is_terminal, waiting_line

if TYPE_CHECKING:
    from rich.progress import Task, TaskID
    from rich.text import Text

    from pipelines.nights.runs import Progress

logger = logging.getLogger(__name__)

LINE_SECONDS: Final = 30.0  # time between two lines where there is no terminal
SILENCE: Final = 3.0  # seconds without a word after which a terminal shows that a command works
FIRST: Final = "reading tables and models"  # what is said until the job counts something


@dataclass
class Phase:
    """What is being counted."""

    label: str
    started_at: float
    done: int = 0
    total: int = 0

    def told(self, now: float) -> str:
        """The phase as a line, with an estimate of the time that is left."""
        counts = f": {self.done:,} of {self.total:,}" if self.total else ""
        return f"{self.label}{counts}, {times(now - self.started_at, self.done, self.total)}"


def times(elapsed: float, done: int, total: int) -> str:
    """How long a phase took, and about how long it will take, if it goes on like that."""
    told = f"elapsed {duration(elapsed)}"
    return f"{told}, about {duration(elapsed * (total - done) / done)} left" if 0 < done < total else told


@contextmanager
def progress_bars(line_seconds: float = LINE_SECONDS) -> "Generator[Progress]":
    """A function that shows how far a job is; what follows a comma in its label may change, as in `steps, loss 0.5`."""
    with waiting_line.left_out(), _bars() if is_terminal(sys.stderr) else _lines(line_seconds) as show:
        yield show


@contextmanager
def waiting(silence: float = SILENCE, line_seconds: float = LINE_SECONDS) -> Generator[None]:
    """Show that a command works while it says nothing: at a terminal in a line that is wiped away, else in the log."""
    phase, waiting_line.is_off = Phase("working", time.monotonic()), False

    def told() -> None:
        line = phase.told(time.monotonic())
        if is_terminal(sys.stderr):
            waiting_line.show(line, silence)
        elif not waiting_line.is_off:
            logger.info(line)

    waiting_line.wipe()
    with repeated(told, min(silence, 1.0) if is_terminal(sys.stderr) else line_seconds):
        yield
    waiting_line.wipe()


@contextmanager
def _lines(seconds: float) -> "Generator[Progress]":
    phases = [Phase(FIRST, time.monotonic())]

    def show(label: str, done: int, total: int) -> None:
        if _name(label) != _name(phases[-1].label):
            phases.append(Phase(label, time.monotonic()))
        phases[-1].label, phases[-1].done, phases[-1].total = label, done, total

    with repeated(lambda: logger.info(phases[-1].told(time.monotonic())), seconds):
        yield show


@contextmanager
def _bars() -> "Generator[Progress]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
    from rich.text import Text

    class Times(ProgressColumn):
        """How long it took, and about how long it will take."""

        def render(self, task: "Task") -> "Text":
            elapsed = task.finished_time or task.elapsed or 0.0
            return Text(times(elapsed, int(task.completed), int(task.total or 0)))

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(16), MofNCompleteColumn(), Times())
    with Progress(*columns, console=Console(stderr=True, force_terminal=True)) as bars:
        first = bars.add_task(FIRST, total=None)
        tasks: dict[str, TaskID] = {}

        def show(label: str, done: int, total: int) -> None:
            if _name(label) not in tasks:
                bars.update(first, visible=False)
                tasks[_name(label)] = bars.add_task(label, total=total)
            bars.update(tasks[_name(label)], description=label, completed=done, total=total)

        yield show
        bars.update(first, visible=False)


def _name(label: str) -> str:
    return label.partition(",")[0]
