"""Runs that are under way: each holds a lease, and gives a sign of life every few seconds.

    _running/<what>/<generation>.json    the run as it began, put if absent: of two at the same time one gets it
    _running/<what>/<run>.beat           a count that goes on as long as the run lives

A lease only saves work: what keeps a night whole are manifests that are put if absent and Delta's commits. Who takes
over the lease of a dead run puts the next generation and deletes the one before, so that whatever is left of that run,
workers of a driver that is gone among it, finds its lease missing and neither writes nor publishes any more.
"""

import contextlib
import json
import re
import time
from collections.abc import Container, Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

from embedder.errors import PplugError
from pipelines.background import repeated
from pipelines.store.stored import Store

Facts = Mapping[str, Any]

RUNNING: Final = "_running"
LEASE: Final = re.compile(rf"{RUNNING}/(?P<what>[^/]+)/(?P<generation>\d+)\.json")
LEASE_FIELDS: Final = {"run_id", "job", "ds", "started_at"}  # what every lease says
LIFE_SECONDS: Final = 10.0  # a run that gives no sign of life for so long is dead
BEATS: Final = 4  # signs of life in that time
LOOK_SECONDS: Final = 0.1


class Refused(PplugError):
    """A run may not begin, because of another."""


class AlreadyRunning(Refused):
    """Another process is at the same night."""


class Fenced(PplugError):
    """The run's lease was taken over: others count on it doing nothing any more."""


@dataclass(frozen=True)
class Lease:
    """A lease that was got; workers carry it and look whether it is still there."""

    store: Store
    what: str
    generation: int
    run_id: str

    @property
    def name(self) -> str:
        return _lease_name(self.what, self.generation)

    @property
    def beat_name(self) -> str:
        return f"{RUNNING}/{self.what}/{self.run_id}.beat"

    def is_held(self) -> bool:
        """Whether the run may still write."""
        return _read(self.store, self.name).get("run_id") == self.run_id

    def require(self) -> None:
        """Refuse to go on without the lease; raises Fenced if another run took it over."""
        if not self.is_held():
            raise Fenced(f"run {self.run_id} was given up for dead and another has taken over: see `pplug runs`")

    def release(self) -> None:
        """Let others have it; for the holder, when all is recorded.

        What runs that were killed while they wrote a lease or a sign of life left in a folder goes with it.
        """
        if self.is_held():
            self.store.delete_unfinished(f"{RUNNING}/{self.what}")
            self.store.delete([self.beat_name, self.name])


@dataclass(frozen=True)
class LeasedRun:
    """A lease as others see it."""

    lease: Lease
    row: Facts  # the run as it began
    beat: Facts  # its last sign of life; empty before the first

    @property
    def last_life(self) -> datetime:
        """When it was last known to live, by its own clock."""
        return datetime.fromisoformat(self.beat.get("at") or self.row["started_at"])

    def seems_dead(self) -> bool:
        """Whether the clocks say so; good enough to show, and to save the watching."""
        return (datetime.now(UTC) - self.last_life).total_seconds() > LIFE_SECONDS

    def is_dead(self) -> bool:
        """Watch until there is a sign of life, or none for too long; clocks that differ do not matter."""
        if (datetime.now(UTC) - self.last_life).total_seconds() > 6 * LIFE_SECONDS:
            return True
        give_up = time.monotonic() + LIFE_SECONDS
        while time.monotonic() < give_up:
            if not self.lease.is_held() or _read(self.lease.store, self.lease.beat_name) != self.beat:
                return False
            time.sleep(LOOK_SECONDS)
        return True


def runs_under_way(store: Store) -> list[LeasedRun]:
    """Every lease there is, dead or alive, by what it is for."""
    return [_run_of_lease(store, what, generation, row) for what, generation, row in _leases(store) if row]


def _run_of_lease(store: Store, what: str, generation: int, row: Facts) -> LeasedRun:
    lease = Lease(store, what, generation, row["run_id"])
    return LeasedRun(lease, row, _read(store, lease.beat_name))


def damaged_leases(store: Store) -> list[str]:
    """Every object that should be a lease and is none, as a power loss leaves it."""
    return [_lease_name(what, generation) for what, generation, row in _leases(store) if row is None]


def _leases(store: Store) -> Iterator[tuple[str, int, Facts | None]]:
    """What each lease is for, its generation and its run; None for what cannot be read."""
    for entry in store.list(RUNNING):
        found = LEASE.fullmatch(entry.name)
        text = store.get(entry.name) if found else None
        if found and text is not None:  # else it has just ended
            row = _parsed(text)
            yield found["what"], int(found["generation"]), row if row.keys() >= LEASE_FIELDS else None


def acquire(store: Store, what: str, row: Facts) -> tuple[Lease, list[LeasedRun]]:
    """Get a lease.

    Returns:
        The lease, and the dead runs it was taken from: record what became of them and release their leases.

    Raises:
        AlreadyRunning: if its holder lives.
        PplugError: if the store does not keep the first of two.
    """
    while True:
        there = [(generation, run) for other, generation, run in _leases(store) if other == what]
        before = [_run_of_lease(store, what, generation, run) for generation, run in there if run]
        for other in before:
            if not other.is_dead() and other.lease.is_held():
                who = f"run {other.row['run_id']} since {other.row['started_at']}"
                told = f"{row['job']} ds={row['ds']} is running already ({who})"
                raise AlreadyRunning(f"{told}: wait for it; `pplug runs` shows when it is done")
        last = max((generation for generation, _ in there), default=0)
        lease = Lease(store, what, last + 1, row["run_id"])
        text = json.dumps(row, default=str).encode()
        if store.put_new(lease.name, text):
            _require_first_to_count(store, lease, text)
            if not _comes_second(lease, {other.lease.run_id for other in before}):
                return lease, [other for other in before if other.lease.is_held()]
            store.delete([lease.name])


def _comes_second(lease: Lease, before: Container[str]) -> bool:
    """Whether somebody else began anew, from the first generation, while this run looked at what was there before."""
    others = (other.lease for other in runs_under_way(lease.store) if other.lease.what == lease.what)
    return any(other.generation < lease.generation and other.run_id not in before for other in others)


def _require_first_to_count(store: Store, lease: Lease, text: bytes) -> None:
    """Refuse a store that says it put an object where there was one: some servers do not know that condition."""
    if store.put_new(lease.name, text):
        store.delete([lease.name])
        told = "it overwrites what should be put only where there is nothing, and nights rest on that"
        raise PplugError(f"{store} cannot be used: {told}: choose a store with conditional puts (If-None-Match)")


@contextlib.contextmanager
def kept_alive(lease: Lease) -> Generator[None]:
    """Give signs of life, in a thread of its own, until the work inside ends."""
    counter = count(1)

    def beat() -> None:
        sign = {"count": next(counter), "at": datetime.now(UTC).isoformat()}
        lease.store.put(lease.beat_name, json.dumps(sign).encode())

    def beat_if_held() -> None:
        with contextlib.suppress(PplugError, OSError):  # a store that cannot be reached for a moment
            if lease.is_held():
                beat()

    beat()
    with repeated(beat_if_held, LIFE_SECONDS / BEATS):
        yield


def _read(store: Store, name: str) -> Facts:
    """A JSON object; an empty one if there is none, or a power cut left it unfinished."""
    return _parsed(store.get(name) or b"")


def _parsed(text: bytes) -> Facts:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _lease_name(what: str, generation: int) -> str:
    return f"{RUNNING}/{what}/{generation:08d}.json"
