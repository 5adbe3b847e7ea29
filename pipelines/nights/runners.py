"""Run a night's shards: in this process, in N processes of this machine, or on any runner of Apache Beam.

    Create(shards), which spreads them ─▶ Read ─▶ Compute ─▶ Write ─▶ manifests

Read, compute and write are fused, so neither text nor vectors cross a shuffle.
"""

import argparse
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from embedder.errors import PplugError, UsageError, error_line
from pipelines.nights import working
from pipelines.nights.job import Night
from pipelines.nights.processes import GOES_ON, WorkerLost, run_processes
from pipelines.nights.shards import Shard

FN_API: Final = "FnApiRunner"
"""Named, because "DirectRunner" may download another runner first, and hang where the network never answers."""

POLL_SECONDS: Final = 0.5
WORKER_SECONDS: Final = 120.0  # a runner none of whose workers gives a sign of life for so long has none


@dataclass(frozen=True)
class Runner:
    """Who computes a night."""

    workers: int = 1  # processes of this machine
    beam_options: tuple[str, ...] = ()  # flags of Apache Beam, like --runner=FlinkRunner

    def __post_init__(self) -> None:
        if self.workers > 1 and self.beam_options:
            raise UsageError(f"--workers {self.workers} and options of Beam ({self.beam_options[0]}): leave one out")

    @property
    def is_elsewhere(self) -> bool:
        """Whether other processes compute, so that this one needs no models."""
        return self.workers > 1 or bool(self.beam_options)

    def run(self, night: Night, shards: Sequence[Shard]) -> None:
        """Finish the shards.

        Raises:
            PplugError: what a worker raised, of its own class; or `WorkerLost`.
        """
        with kept_interruption(), _errors_of_workers(night):
            if self.workers > 1:
                run_processes(night, shards, self.workers)
            else:
                run_beam(night, shards, self.beam_options)


class ShardStep(beam.DoFn):
    """What a worker does with shards, a function of `working`; what goes wrong is noted for the driver."""

    def __init__(self, night: Night, work: Callable[..., Any], prepare: Any = None) -> None:
        self._night, self._work, self._prepare = night, work, prepare

    def setup(self) -> None:
        if self._prepare is not None:
            with working.noted_errors(self._night):
                self._prepare(self._night)

    def process(self, element: Any) -> Iterator[Any]:
        with working.noted_errors(self._night):
            done = self._work(self._night, element)
        if done is not None:
            yield done


class FinishShards(beam.PTransform):
    """Shards in, the manifests of those that were not finished out."""

    def __init__(self, night: Night, *, is_elsewhere: bool) -> None:
        super().__init__()
        self._night, self._is_elsewhere = night, is_elsewhere

    def expand(self, shards: beam.PCollection[Shard]) -> Any:
        return (
            shards
            | "Read" >> beam.ParDo(ShardStep(self._night, working.read, working.beat if self._is_elsewhere else None))
            | "Compute" >> beam.ParDo(ShardStep(self._night, working.compute, working.load))
            | "Write" >> beam.ParDo(ShardStep(self._night, working.write))
        )


def run_beam(night: Night, shards: Sequence[Shard], flags: Sequence[str]) -> None:
    """Run the shards as a pipeline of Beam, and watch its workers where they are others' processes."""
    options = beam_options(flags)
    pipeline = beam.Pipeline(options=options)
    _ = pipeline | "Shards" >> beam.Create(shards, reshuffle=True) | FinishShards(night, is_elsewhere=bool(flags))
    result: Any = pipeline.run()  # FnApiRunner is done when this returns
    heard, last = "", time.monotonic()
    while not PipelineState.is_terminal(result.state):
        time.sleep(POLL_SECONDS)
        store = night.warehouse.store
        signs = {entry.name: store.get(entry.name) for entry in store.list(f"{night.log.folder}/workers")}
        if repr(signs) != heard:
            heard, last = repr(signs), time.monotonic()
        if time.monotonic() - last > WORKER_SECONDS:
            threading.Thread(target=result.cancel, daemon=True).start()
            who = "its workers have gone" if signs else "no worker has begun"
            told = f"nothing was heard for {WORKER_SECONDS:.0f} s: {who}"
            raise WorkerLost(f"{' '.join(flags)}: {told}: look into the runner's logs, start workers and {GOES_ON}")
    result.wait_until_finish()


def beam_options(flags: Sequence[str]) -> PipelineOptions:
    """Read the flags of Beam.

    Raises:
        UsageError: if Beam does not know one, or the runner is one that loses rows or hangs.
    """
    options = PipelineOptions([f"--runner={FN_API}", *flags])
    if not flags:
        return options
    known: Any = options.get_all_options()
    runner = str(known["runner"])
    if runner.rpartition(".")[2] == "DaskRunner":
        raise UsageError("--runner=DaskRunner loses rows (Beam 2.77): choose another runner, or --workers N")
    if known.get("direct_running_mode") == "multi_processing":
        raise UsageError(
            "--direct_running_mode=multi_processing waits for ever for a worker that died (Beam 2.77): use --workers N"
        )
    if runner == FN_API and (unknown := _unknown(flags)):
        raise UsageError(f"Apache Beam has no option {unknown[0]}: see its documentation of {runner}")
    return options


def _unknown(flags: Sequence[str]) -> list[str]:
    parser: Any = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    kinds = [PipelineOptions]
    for kind in kinds:
        kinds += kind.__subclasses__()
        with contextlib.suppress(argparse.ArgumentError):  # two kinds have it
            getattr(kind, "_add_argparse_args", lambda _: None)(parser)
    return parser.parse_known_args([*flags])[1]


@contextlib.contextmanager
def _errors_of_workers(night: Night) -> Generator[None]:
    """Raise what a worker raised, whatever the runner made of it."""
    try:
        yield
    except Exception as error:
        if (noted := working.noted_error(night)) is not None:
            raise noted from error
        if isinstance(error, PplugError):
            raise
        raise WorkerLost(f"Apache Beam gave up ({error_line(error)}; --debug shows more): {GOES_ON}") from error


@contextlib.contextmanager
def kept_interruption() -> Generator[None]:
    """Raise KeyboardInterrupt at the end if it was raised meanwhile: Beam takes it for an error of a step, or drops it.

    Only the main thread is ever interrupted; in another one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    raised: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        raised.append(number)
        raise KeyboardInterrupt

    for number, handler in before.items():
        if callable(handler):  # else it is ignored, as for a job in the background, or ends the process
            signal.signal(number, interrupt)
    try:
        yield
    except BaseException as error:
        if raised and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if raised:
        raise KeyboardInterrupt
