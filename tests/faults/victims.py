"""Processes that die, or wait, in the middle of a job.

    fork server (everything imported) ─▶ child: doors before some functions ─▶ one job of the night ─▶ exit code
                                                  └─▶ SIGKILL at the n-th call or return inside a phase

The product knows nothing of it: a phase is named by functions, each of which gets a door, and behind it the
interpreter reports every call. To have all calls reported, of all threads, would take three times as long as the job.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import isgeneratorfunction
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Event
from pathlib import Path
from pkgutil import resolve_name
from types import FrameType
from typing import Any, Protocol

from embedder.errors import PplugError
from pipelines.store import leases

IMPORTED = (
    "pytest",
    "pipelines.encode",
    "pipelines.generate",
    "pipelines.ingest",
    "pipelines.train",
    "pipelines.tables.queries",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
)
"""What the fork server imports once, so that a child starts at once."""

PHASES: Mapping[str, tuple[str, ...]] = {
    "ingest": ("pipelines.ingest:stage_and_write",),
    "reading": ("pipelines.personas.items:read_changed", "pipelines.answers.queue:queued_tasks"),
    "encoding": ("pipelines.personas.items:encode_items",),
    "grouping": ("pipelines.personas.items:shard_tables",),
    "training": ("llm_jobs.training.fit:train_plug",),
    "saving a plug": (
        "llm_jobs.training.checkpoint:Checkpoint.save",
        "embedder.plug:PersonaPlug.save_pretrained",
        "llm_jobs.training.fit:write_report",
    ),
    "generating": ("pipelines.answers.outputs:answer_queue",),
    "writing shards": ("pipelines.nights.working:write",),
    "committing": (
        "pipelines.nights.night:publish",
        "pipelines.tables.upsert:upsert",
        "pipelines.tables.warehouse:Warehouse.append",
    ),
}
"""The functions that a phase of a night runs in."""

OURS = ("embedder", "llm_jobs", "pipelines")

CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(IMPORTED))


class Action(Protocol):
    """What happens when the moment has come."""

    def __call__(self) -> None: ...


def die() -> None:
    """Leave as a process leaves that loses its machine."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Wait:
    """Say that the moment has come, and go on when told."""

    reached: Event
    go_on: Event

    def __call__(self) -> None:
        self.reached.set()
        self.go_on.wait()


@dataclass(frozen=True)
class Moment:
    """The n-th call or return inside the functions of a phase, counted over all threads."""

    phase: str
    number: int
    action: Action = die


class Inside(threading.local):
    """The phases that a thread is in, the outermost first."""

    def __init__(self) -> None:
        self.phases: list[str] = []


class Trap:
    """Counts what is called in all phases, or in that of the moment, at which it acts."""

    def __init__(self, moment: Moment | None) -> None:
        self._moment = moment
        self._inside = Inside()
        self._own = {id(self._watched.__code__)}
        self.counts = Counter[str]()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if id(frame.f_code) in self._own:  # what a door does is no call of the job
            return
        for phase in self._inside.phases:
            self.counts[phase] += 1
            if self._moment and (phase, self.counts[phase]) == (self._moment.phase, self._moment.number):
                self._moment.action()

    def put_doors(self) -> None:
        """Put a door before each function of the phases, wherever one of our modules names it."""
        ours = [module for name, module in sys.modules.items() if name.split(".")[0] in OURS]
        for phase in [self._moment.phase] if self._moment else PHASES:
            for name in PHASES[phase]:
                function, owner = resolve_name(name), resolve_name(name.rpartition(".")[0])
                door = self._door(phase, function)
                for place in [*ours, owner]:
                    for key in [key for key, value in vars(place).items() if value is function]:
                        setattr(place, key, door)

    def _door(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched while it runs: one that yields is, while it makes what it yields next."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._watched(phase, function, *args, **kwargs)

        @wraps(function)
        def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
            made = function(*args, **kwargs)
            while (value := self._watched(phase, next, made, self)) is not self:
                yield value

        self._own |= {id(call.__code__), id(steps.__code__)}
        return steps if isgeneratorfunction(function) else call

    def _watched(self, phase: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        phases, before = self._inside.phases, sys.getprofile()
        is_inner = phase in phases
        if not is_inner:
            phases.append(phase)
        sys.setprofile(self)
        try:
            return function(*args, **kwargs)
        finally:
            sys.setprofile(before)
            if not is_inner:
                phases.remove(phase)


def run_trapped(
    job: Callable[[Path], None], folder: Path, moment: Moment | None, life_seconds: float = leases.LIFE_SECONDS
) -> None:
    """In the child: run a job in a folder; its stderr is left beside it.

    As at the command line, a refusal is one line and exit code 1.
    """
    sys.stderr = folder.with_suffix(".stderr").open("w", encoding="utf8")
    leases.LIFE_SECONDS = life_seconds
    if moment:
        Trap(moment).put_doors()
    try:
        job(folder)
    except PplugError as error:
        raise SystemExit(str(error)) from error
    finally:
        sys.stderr.flush()


def run_counted(job: Callable[[Path], None], folder: Path) -> None:
    """In the child: run a job in a folder; the calls and returns inside each phase are left beside it."""
    trap = Trap(None)
    trap.put_doors()
    job(folder)
    folder.with_suffix(".counts").write_text(json.dumps(trap.counts), encoding="utf8")


def start(job: Callable[[Path], None], folder: Path, moment: Moment | None = None) -> Any:
    """Start a job in a process of its own."""
    process = CONTEXT.Process(target=run_trapped, args=(job, folder, moment))
    process.start()
    return process


def finished(job: Callable[[Path], None], folder: Path, moment: Moment | None = None) -> int:
    """Run a job in a process of its own and return its exit code, minus the signal that ended it."""
    process = start(job, folder, moment)
    process.join()
    return process.exitcode


def finished_after_a_kill(job: Callable[[Path], None], folder: Path, life_seconds: float = 0.5) -> int:
    """Run a job again where nothing else runs, so that a lease without a sign of life is soon one of the dead."""
    time.sleep(life_seconds)
    process = CONTEXT.Process(target=run_trapped, args=(job, folder, None, life_seconds))
    process.start()
    process.join()
    return process.exitcode


def said(folder: Path) -> str:
    """What the last job in a folder wrote to stderr."""
    return folder.with_suffix(".stderr").read_text(encoding="utf8")


def counts(folder: Path) -> dict[str, int]:
    """Calls and returns inside each phase of the last job in a folder that was counted."""
    return json.loads(folder.with_suffix(".counts").read_text(encoding="utf8"))
