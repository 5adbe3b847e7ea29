"""Run a nightly job's shards through Beam and publish what they left on disk.

shards ─▶ (transform of the job) ─▶ finished shard files ─▶ one Delta commit a table
"""

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from llm_jobs.kinds import Kind
from pipelines.runs import Progress, RunRecord
from pipelines.shards import Shard, ShardFolder
from pipelines.warehouse import Warehouse

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


def run_shards(
    shards: Sequence[Shard], work: beam.PTransform, folder: ShardFolder, label: str, progress: Progress
) -> None:
    """Run `work` on the shards that have no receipt yet."""
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
    warehouse: Warehouse, night: Night, job: str, tables: Sequence[str], shards: Sequence[Shard], record: RunRecord
) -> None:
    """Commit the finished shards, a table at a time, and count what they hold in `record`."""
    receipts = night.folder.finish(shards)
    record.rows_in = sum(receipt.rows_in for receipt in receipts)
    record.rows_out = sum(receipt.rows_out for receipt in receipts)
    record.rows_rejected = sum(receipt.rows_rejected for receipt in receipts)
    record.tokens = sum(receipt.tokens for receipt in receipts)
    for table in tables:
        warehouse.publish(table, night.ds, record.run_id, night.folder.files(shards, table))
    warehouse.replace_rejects(job, night.ds, record.run_id, night.folder.files(shards, "rejects"))
    night.folder.remove()
