"""Run a nightly job's shards through Beam and publish what they left on disk.

shards ─▶ (transform of the job) ─▶ finished shard files ─▶ one Delta commit a table
"""

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from embedder.errors import PplugError
from llm_jobs.kinds import Kind
from pipelines.nights.runs import Progress, RunRecord
from pipelines.nights.shards import Shard, ShardFolder
from pipelines.tables.warehouse import Warehouse

RUNNER = "FnApiRunner"
"""Named, because "DirectRunner" may download another runner first, and hang where the network never answers."""

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Night:
    """What every worker of a job needs to know; it is pickled to each of them."""

    root: Path
    """The warehouse."""
    ds: date
    run_id: str
    versions: Mapping[str, int]
    """Delta versions to read, so that all workers see the same tables."""
    kinds: Mapping[str, Kind]
    folder: ShardFolder
    """Where finished shards go."""


def planned_night(
    warehouse: Warehouse,
    record: RunRecord,
    versions: Mapping[str, int],
    kinds: Mapping[str, Kind],
    settings: Mapping[str, Any],
) -> Night:
    """The work of a run; the same work on the same tables has the same folder of shards, whatever run it is.

    Args:
        warehouse: where the folder lies.
        record: the run.
        versions: Delta versions of the tables that the work is made from, and of no other: one that changes with
            every run, as `runs` does, would hide what an earlier run finished.
        kinds: the kinds of items and tasks.
        settings: all else that the result depends on.
    """
    determinants = {"settings": settings, "ds": record.ds, "versions": versions}
    folder = ShardFolder.of(warehouse, record.job, determinants)
    return Night(warehouse.root, record.ds, record.run_id, versions, kinds, folder)


def run_shards(
    shards: Sequence[Shard],
    work: beam.PTransform,
    folder: ShardFolder,
    label: str,
    progress: Progress,
    *,
    force: bool = False,
) -> None:
    """Run `work` on the shards that have no receipt yet; with `force`, on all."""
    if force:
        folder.remove()
    todo = [shard for shard in shards if folder.receipt(shard) is None]
    with watched(shards, folder, label, progress):
        if todo:
            with beam.Pipeline(options=PipelineOptions([f"--runner={RUNNER}"])) as pipeline:
                _ = pipeline | "Shards" >> beam.Create(todo) | "Spread" >> beam.Reshuffle() | work


@contextmanager
def watched(shards: Sequence[Shard], folder: ShardFolder, label: str, progress: Progress) -> Generator[None]:
    """Tell `progress` about finished shards while Beam runs, which itself says nothing before its end."""
    total = sum(shard.row_count for shard in shards)

    def tell() -> None:
        progress(label, sum(shard.row_count for shard in shards if folder.receipt(shard)), total)

    def poll() -> None:
        while not is_over.wait(POLL_SECONDS):
            tell()

    is_over = threading.Event()
    watcher = threading.Thread(target=poll, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
    tell()


def publish_shards(
    warehouse: Warehouse, night: Night, tables: Sequence[str], shards: Sequence[Shard], record: RunRecord
) -> None:
    """Commit the finished shards, a table at a time, and count what they hold in `record`.

    Raises:
        PplugError: if the shards do not hold every row that was planned, exactly once.
    """
    receipts = night.folder.finish(shards)
    record.rows_in = sum(receipt.rows_in for receipt in receipts)
    record.rows_out = sum(receipt.rows_out for receipt in receipts)
    record.rows_rejected = sum(receipt.rows_rejected for receipt in receipts)
    record.tokens = sum(receipt.tokens for receipt in receipts)
    planned = sum(shard.row_count for shard in shards)
    if not planned == record.rows_in == record.rows_out + record.rows_rejected:
        counts = (
            f"{planned} rows planned, {record.rows_in} read, {record.rows_out} kept, {record.rows_rejected} rejected"
        )
        raise PplugError(
            f"{record.job} ds={night.ds} is not published, rows are missing: {counts}: run it with --force"
        )
    for table in tables:
        warehouse.publish(table, night.ds, record.run_id, night.folder.files(shards, table))
    warehouse.replace_rejects(record.job, night.ds, record.run_id, night.folder.files(shards, "rejects"))
    night.folder.remove()
