"""Processes of this machine that compute: made from one that has imported the models' libraries, and holds no model."""

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any, Final, TypeVar

from embedder.devices import core_count, gpu_of_worker
from embedder.errors import PplugError, error_line
from pipelines.nights import working
from pipelines.nights.job import Night
from pipelines.nights.loading import load_once
from pipelines.nights.shards import Shard

logger = logging.getLogger(__name__)

IMPORTED: Final = ("embedder.encoder", "llm_jobs.frozen_llm", "pipelines.nights.preloaded")
"""What takes long to import; not what is slow to leave again: DuckDB complains in every process that ends."""

GOES_ON: Final = "run the command again; it goes on where it was"

Returned = TypeVar("Returned")


class WorkerLost(PplugError):
    """A worker ended, or never began."""


def elsewhere(work: Callable[..., Returned], *args: Any) -> Returned:
    """Call a function in a process of its own, and return what it returned or raise what it raised."""
    here, there = _context().Pipe(duplex=False)
    process = _context().Process(target=_answer, args=(dict(os.environ), there, work, args), daemon=True)
    process.start()
    there.close()
    try:
        found = here.recv()
    except EOFError:
        process.join()
        raise WorkerLost(_how_it_ended("a process that was to look at the models", process.exitcode or 1)) from None
    process.join()
    if isinstance(found, BaseException):
        raise found
    return found


def found_out(work: Callable[..., Returned], *args: Any, is_apart: bool) -> Returned:
    """Call a function, if `is_apart` in a process of its own, whose last finding is kept."""
    return _kept(work, *args) if is_apart else work(*args)


def run_processes(night: Night, shards: Sequence[Shard], count: int) -> None:
    """Deal the shards out to so many processes, each with its share of cores and memory, and in turn a GPU.

    Raises:
        WorkerLost: if one ends before its shards are finished; the others are ended too.
    """
    import torch

    count, gpu_count = max(1, min(count, len(shards))), torch.cuda.device_count()
    threads = max(1, core_count() // count)
    workers = [
        _context().Process(
            target=_work,
            args=(dict(os.environ) | gpu_of_worker(at, gpu_count), night, shards[at::count], threads),
            name=f"worker {at + 1} of {count}",
            daemon=True,
        )
        for at in range(count)
    ]
    try:
        for worker in workers:
            worker.start()
        left = list(workers)
        while left:
            wait([worker.sentinel for worker in left])
            for worker in [worker for worker in left if worker.exitcode is not None]:
                left.remove(worker)
                if worker.exitcode:
                    raise WorkerLost(_how_it_ended(worker.name, worker.exitcode))
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            if worker.pid is not None:
                worker.join()


_kept: Any = load_once(elsewhere)


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


def _answer(environment: dict[str, str], there: Any, work: Callable[..., object], args: Sequence[Any]) -> None:
    os.environ.update(environment)  # that of the process which all are made from may be older
    try:
        there.send(work(*args))
    except PplugError as error:
        there.send(error)
    there.close()
    os._exit(0)


def _work(environment: dict[str, str], night: Night, shards: Sequence[Shard], threads: int) -> None:
    """The whole life of a worker."""
    import torch

    os.environ.update(environment)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver, which gets it too, ends the workers
    torch.set_num_threads(threads)
    exit_code = 1
    try:
        with working.noted_errors(night):
            working.finish(night, shards)
        exit_code = 0
    except Exception as error:  # the driver raises it, unless it could not even be noted
        logger.debug("a worker failed: %s", error_line(error))
    os._exit(exit_code)  # at once: libraries that clean up complain of each other


def _how_it_ended(name: str, exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return f"{name} was killed, as the system does when memory runs out: {GOES_ON}, perhaps with fewer --workers"
    how = f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with exit code {exit_code}"
    return f"{name} ended {how}: {GOES_ON}"
