"""Run a nightly job's shards through Beam and publish what they left on disk.

shards ─▶ (transform of the job) ─▶ finished shard files ─▶ one Delta commit a table
"""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from embedder.errors import PplugError
from llm_jobs.kinds import Kind
from pipelines.nights.interruption import kept_interruption
from pipelines.nights.meanwhile import repeated
from pipelines.nights.plans import Cost
from pipelines.nights.published import DONE, PUBLISHED_ROWS, NightInputs
from pipelines.nights.runs import Progress, RunRecord
from pipelines.nights.shards import Receipt, Shard, ShardFolder

RUNNER = "FnApiRunner"
"""Named, because "DirectRunner" may download another runner first, and hang where the network never answers."""

POLL_SECONDS = 0.5

STEP = " [while running "
"""How Beam begins what it adds to the first argument of an error."""


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


def planned_night(inputs: NightInputs, run_id: str, shard_rows: int, *, force: bool = False) -> Night:
    """What the workers need; the same work in the same shards has the same folder, whatever run it is."""
    name = f"{inputs.work.sha256[:16]}-{shard_rows}{'-forced' if force else ''}"
    folder = ShardFolder.of(inputs.warehouse, inputs.job, inputs.ds, name)
    return Night(inputs.warehouse.root, inputs.ds, run_id, inputs.versions, inputs.kinds, folder)


def is_done(inputs: NightInputs, record: RunRecord, *, force: bool) -> bool:
    """Note the inputs in `record`; if the night holds its rows already, take over their counts and return True."""
    record.config = {**record.config, **inputs.settings, "work": asdict(inputs.work)}
    published = inputs.published()
    if force or published is None or published.state(inputs.work) != DONE:
        return False
    record.rows_in, record.rows_out = published.rows_in, published.rows_out
    record.rows_rejected = published.rows_rejected
    record.config = {**record.config, "published_by": published.run_id}
    return True


def run_shards(
    shards: Sequence[Shard],
    work: beam.PTransform,
    folder: ShardFolder,
    label: str,
    progress: Progress,
    record: RunRecord,
) -> None:
    """Run `work` on the shards that are not finished yet, and note in `record` what that cost."""
    todo = folder.unfinished(shards)
    start = time.perf_counter()
    try:
        with kept_interruption(), watched(shards, folder, label, progress), errors_of_workers():
            if todo:
                with beam.Pipeline(options=PipelineOptions([f"--runner={RUNNER}"])) as pipeline:
                    _ = pipeline | "Shards" >> beam.Create(todo) | "Spread" >> beam.Reshuffle() | work
    finally:
        done = [receipt for shard in todo if (receipt := folder.receipt(shard)) is not None]
        record.tokens = sum(receipt.tokens for receipt in done)
        cost = Cost(
            rows=sum(receipt.rows_in for receipt in done),
            shard_seconds=time.perf_counter() - start,
            model_seconds=sum(receipt.seconds for receipt in done),
        )
        record.config = {**record.config, "cost": asdict(cost)}


@contextmanager
def errors_of_workers() -> Generator[None]:
    """Beam ends what a worker raised with the name of a step, which tells the user nothing."""
    try:
        yield
    except PplugError as error:
        error.args = tuple(arg.partition(STEP)[0] if isinstance(arg, str) else arg for arg in error.args)
        raise


@contextmanager
def watched(shards: Sequence[Shard], folder: ShardFolder, label: str, progress: Progress) -> Generator[None]:
    """Tell `progress` about finished shards while Beam runs, which itself says nothing before its end."""
    total = sum(shard.row_count for shard in shards)
    left = list(shards)

    def tell() -> None:
        left[:] = [shard for shard in left if folder.receipt(shard) is None]
        progress(label, total - sum(shard.row_count for shard in left), total)

    with repeated(tell, POLL_SECONDS):
        yield
    tell()


def publish_shards(inputs: NightInputs, night: Night, shards: Sequence[Shard], record: RunRecord) -> list[Receipt]:
    """Commit the finished shards, a table at a time, and note in `record` what they hold and the versions made.

    Returns:
        What each shard holds.

    Raises:
        PplugError: if the shards do not hold every row that was planned, exactly once.
    """
    receipts = night.folder.finish(shards)
    record.rows_in = sum(receipt.rows_in for receipt in receipts)
    record.rows_out = sum(receipt.rows_out for receipt in receipts)
    record.rows_rejected = sum(receipt.rows_rejected for receipt in receipts)
    planned = sum(shard.row_count for shard in shards)
    if not planned == record.rows_in == record.rows_out + record.rows_rejected:
        counts = (
            f"{planned} rows planned, {record.rows_in} read, {record.rows_out} kept, {record.rows_rejected} rejected"
        )
        night.folder.remove()
        raise PplugError(f"{record.job} ds={night.ds} is not published, rows are missing: {counts}: run it again")
    for table in inputs.writes:
        version = inputs.warehouse.publish(table, night.ds, record.run_id, night.folder.files(receipts, table))
        record.versions = {**record.versions, table: version}
    files = [(name, file.row_count) for receipt in receipts for name, file in receipt.files.items()]
    rows = {table: sum(count for name, count in files if name == table) for table in inputs.writes}
    inputs.warehouse.replace_rejects(record.job, night.ds, record.run_id, night.folder.files(receipts, "rejects"))
    record.config = {**record.config, PUBLISHED_ROWS: rows}
    return receipts
