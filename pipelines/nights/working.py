"""What a worker does with a shard, whoever runs the worker: read, compute, write, and a manifest at the end.

    lease still there? ─▶ read ─▶ compute ─▶ data files ─▶ manifest, put if absent ─▶ lease still there?

What goes wrong in a worker is noted in the store, so that the driver can raise the very same error on every runner.
"""

import contextlib
import hashlib
import json
import threading
import time
import uuid
from collections.abc import Generator, Iterable, Mapping
from typing import Any, Final

from embedder.errors import PplugError, error_line
from pipelines.nights.job import Night
from pipelines.nights.shards import Manifest, Shard, ShardFile, data_name
from pipelines.store.leases import Fenced
from pipelines.tables.parquet import parquet_bytes
from pipelines.tables.views import connect

COMPUTING: Final = threading.Lock()
"""Runners may start many threads in a process; its models run for one of them at a time."""

BEAT_SECONDS: Final = 5.0
"""Time between two signs of life of a worker."""

_at_work: list[int] = []
"""Rows of the shard at work in this process that are done, as several threads told of them."""

_beating: dict[str, threading.Thread] = {}


ReadShard = tuple[Shard, Any]  # and its rows
ComputedShard = tuple[Shard, Any, float]  # its results, and the seconds that the models took


def read(night: Night, shard: Shard) -> ReadShard | None:
    """Read a shard's rows from the files that it names; None for one that another worker has finished."""
    if night.log.manifest(shard.index) is not None:
        return None
    night.lease.require()
    with connect(night.warehouse, files=shard.files) as db:
        return shard, night.job.read(night, shard, db)


def load(night: Night) -> Any:
    """Load the models that the night was planned with."""
    return night.job.load(night.facts)


def count(rows: int) -> None:
    """Note that so many more rows of the shard at work are done; a job calls it in `compute`, where it can tell."""
    if rows:
        _at_work.append(rows)


def rows_at_work() -> int:
    """How many rows of the shard at work in this process are done; none where other processes compute."""
    return sum(_at_work)


def compute(night: Night, read_shard: ReadShard) -> ComputedShard:
    """Run the models over a shard's rows."""
    shard, rows = read_shard
    with COMPUTING:
        models = load(night)
        _at_work.clear()
        start = time.perf_counter()
        results = night.job.compute(night, rows, models)
        return shard, results, time.perf_counter() - start


def write(night: Night, computed: ComputedShard) -> Manifest:
    """Put a shard's data files, then its manifest.

    Returns:
        The manifest that counts: this one, or that of a worker who was first.

    Raises:
        Fenced: if the run was given up for dead meanwhile; then nothing of it stays.
    """
    shard, results, seconds = computed
    index, attempt = shard.index, uuid.uuid4().hex[:8]
    made = night.job.shape(night, results)
    packed = {
        data_name(table, night.ds, night.log.work, index, attempt): (rows.num_rows, parquet_bytes(rows))
        for table, rows in made.tables.items()
        if rows.num_rows
    }
    files = tuple(
        ShardFile(name, len(data), count, hashlib.sha256(data).hexdigest()) for name, (count, data) in packed.items()
    )
    night.lease.require()
    for name, (_, data) in packed.items():
        night.warehouse.store.put(name, data)
    rejected = made.tables["rejects"].num_rows if "rejects" in made.tables else 0
    counts = (made.rows_out + rejected, made.rows_out, rejected, made.tokens)
    manifest = Manifest(index, night.run_id, *counts, seconds, made.counts, files)
    is_first = night.log.add(manifest)
    _at_work.clear()
    if not is_first:
        night.warehouse.store.delete(packed)
        first = night.log.manifest(index)
        if first is None:
            raise PplugError(f"the manifest of shard {index} cannot be read: run the command again")
        return first
    if not night.lease.is_held() and not _is_taken_over(night):
        night.log.drop([index])
        night.warehouse.store.delete(packed)
    night.lease.require()
    return manifest


def finish(night: Night, shards: Iterable[Shard]) -> None:
    """Do all of it for one shard after the other, unless it has its manifest already."""
    for shard in shards:
        if found := read(night, shard):
            write(night, compute(night, found))


def _is_taken_over(night: Night) -> bool:
    """Whether another run of the same work goes on, which may count on the manifest by now."""
    prefix = night.lease.name.rpartition("/")[0]
    return any(entry.name.endswith(".json") for entry in night.warehouse.store.list(prefix))


def beat(night: Night) -> None:
    """Give signs of life as a worker of a run, in a thread, until the run's lease is gone."""
    if night.run_id in _beating:
        return
    name = f"{night.log.folder}/workers/{uuid.uuid4().hex[:12]}"

    def live() -> None:
        count = 0
        with contextlib.suppress(PplugError, OSError):
            while night.lease.is_held():
                night.warehouse.store.put(name, str(count := count + 1).encode())
                time.sleep(BEAT_SECONDS)
            night.warehouse.store.delete([name])

    _beating[night.run_id] = threading.Thread(target=live, daemon=True)
    _beating[night.run_id].start()


def failure_name(night: Night) -> str:
    """Where the first error of a run's workers is noted."""
    return f"{night.log.folder}/failed/{night.run_id}"


@contextlib.contextmanager
def noted_errors(night: Night) -> Generator[None]:
    """Note the first error of a run's workers, class and arguments, and raise it."""
    try:
        yield
    except Exception as error:
        is_ours = isinstance(error, PplugError)
        args = [str(arg) for arg in error.args] if is_ours else []
        row = {"type": type(error).__name__, "args": args, "said": error_line(error)}
        with contextlib.suppress(PplugError, OSError):
            if not isinstance(error, Fenced):  # then nothing of the run may be written any more
                night.warehouse.store.put_new(failure_name(night), json.dumps(row | {"is_ours": is_ours}).encode())
        raise


def noted_error(night: Night) -> PplugError | None:
    """Make the error that a worker noted anew."""
    found = night.warehouse.store.get(failure_name(night))
    if not found:
        return None
    row: Mapping[str, Any] = json.loads(found)
    if not row["is_ours"]:
        return PplugError(f"a worker failed ({row['said']}; not expected: --debug shows where)")
    known = {kind.__name__: kind for kind in _kinds_of(PplugError)}
    error = known.get(row["type"], PplugError)(*row["args"])
    return error


def _kinds_of(kind: type[PplugError]) -> list[type[PplugError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _kinds_of(child))]
