"""Run a job's night: plan it, have its shards finished, publish them.

    lease ─▶ inputs ─▶ published already? ─▶ shards ─▶ a runner finishes them ─▶ manifests are checked
          ─▶ one Delta commit a table ─▶ the row in `runs`, last

A run that dies anywhere leaves manifests; the next run of the same inputs and settings goes on from them.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

from embedder.errors import InputMissing, PplugError
from pipelines.background import repeated
from pipelines.nights import working
from pipelines.nights.job import Night, NightJob
from pipelines.nights.plans import Plan
from pipelines.nights.published import DONE, PUBLISHED_ROWS, NightInputs
from pipelines.nights.runners import Runner
from pipelines.nights.runs import Excludes, Progress, RunRecord, leased_run, no_progress
from pipelines.nights.shards import Manifest, Shard, ShardLog, canonical_sha256, cut_shards, with_files
from pipelines.store.leases import Lease
from pipelines.tables.data_files import Counts, DataFile
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

POLL_SECONDS = 0.5

RunShards = Callable[[Night, Sequence[Shard]], None]


def run_night(
    job: NightJob, warehouse: Warehouse, ds: date, progress: Progress = no_progress, runner: Runner | None = None
) -> RunRecord:
    """Replace a night of the job's tables; one that holds the same work already is left as it is.

    Raises:
        AlreadyRunning: if another process is at that night.
        InputMissing: if there is nothing to work on.
        PplugError: if something does not fit together, a worker fails or is lost, or another run was faster.
    """
    with leased_run(warehouse, job.name, ds, job.settings, Excludes.SAME_NIGHT) as (record, lease):
        job = job.decided(warehouse)
        record.config = job.settings
        inputs = job.inputs(warehouse, ds)
        job.require(inputs)
        if is_done(inputs, record, force=job.force):
            return record
        since = inputs.counts()
        shards = cut(job, inputs)
        night = night_of_workers(job, inputs, shards, record.run_id, lease)
        run = (runner or Runner()).run
        with noted_cost(night, record):
            finish_shards(night, shards, run, progress)
            joining = joining_shards(night, shards)
            finish_shards(night, joining, run, no_progress)
        job.warn(inputs, publish(inputs, night, [*shards, *joining], since, record))
    return record


def plan_night(job: NightJob, warehouse: Warehouse, ds: date) -> Plan:
    """Say what `run_night` would do; nothing is written."""
    job = job.decided(warehouse)
    inputs = job.inputs(warehouse, ds)
    state, _ = inputs.published()
    if state == DONE and not job.force:
        return Plan(job.name, ds, state=state)
    return job.estimate(inputs, cut(job, inputs))


def is_done(inputs: NightInputs, record: RunRecord, *, force: bool) -> bool:
    """Note the inputs in `record`; if the night holds its rows already, take over their counts and return True."""
    record.config = {**record.config, **inputs.settings, **inputs.notes, "work": inputs.work}
    state, run = inputs.published()
    if force or state != DONE:
        return False
    record.rows_in, record.rows_out, record.rows_rejected = run["rows_in"], run["rows_out"], run["rows_rejected"]
    record.config = {**record.config, "published_by": run["run_id"]}
    return True


def night_of_workers(job: NightJob, inputs: NightInputs, shards: Sequence[Shard], run_id: str, lease: Lease) -> Night:
    """Say what the workers need; the same work in the same shards has the same manifests, whatever run it is.

    What is ingested for a later night changes nothing of the work, but may change the files, and how users are cut.
    """
    cuts = [(one.first_user, one.last_user, one.row_count, one.part, one.parts) for one in shards]
    files = {name: [file.name for file in there] for name, there in inputs.reads.items()}
    cut_sha256 = canonical_sha256({"cuts": cuts, "files": files})
    work = f"{canonical_sha256(inputs.work)[:16]}-{cut_sha256[:8]}{'-forced' if job.force else ''}"
    log = ShardLog(inputs.warehouse.store, job.name, inputs.ds, work)
    return Night(job, inputs.warehouse, inputs.ds, run_id, log, lease, inputs.facts)


def cut(job: NightJob, inputs: NightInputs) -> list[Shard]:
    """Cut the users that have rows into shards, each with the files that it needs.

    Raises:
        InputMissing: if there is no row, and the night does not stand on another.
    """
    with connect(inputs.warehouse, files=inputs.reads) as db:
        users = _users(job.row_counts(db, inputs).to_arrow_reader())
        shards = cut_shards(users, job.shard_rows, in_parts=job.takes_parts)
    if not shards and not inputs.based_on:
        table, ds = job.reads[0], inputs.ds
        raise InputMissing(f"no {table} as of {ds} in {inputs.warehouse}: run `pplug ingest {table} FILE --ds {ds}`")
    return list(with_files(shards, inputs.warehouse, inputs.reads))


def _users(batches: Any) -> Iterator[tuple[str, int, int]]:
    """Id, rows and weight of each user; a row weighs one unless the job says more."""
    for batch in batches:
        columns = [column.to_pylist() for column in batch.columns]
        yield from zip(*columns, *columns[1:] if len(columns) == 2 else (), strict=True)


def joining_shards(night: Night, shards: Sequence[Shard]) -> list[Shard]:
    """One more shard for each user who was cut into parts; it reads what they wrote, too."""
    first = {shard.first_user: shard for shard in shards if shard.parts > 1 and shard.part == 0}
    found = list[Shard]()
    for index, shard in enumerate(first.values(), len(shards)):
        own = [manifest for at in range(shard.parts) if (manifest := night.log.manifest(shard.index + at))]
        files = {name: (*there, *files_of(own, name, night.ds)) for name, there in shard.files.items()}
        found.append(Shard(index, shard.first_user, shard.last_user, 0, files, joins_parts=True))
    return found


def finish_shards(night: Night, shards: Sequence[Shard], run: RunShards, progress: Progress) -> None:
    """Have the shards finished that have no manifest that fits."""
    night.log.drop(night.log.unfit(night.run_id))
    done = night.log.finished()
    with watched(night, shards, progress):
        if todo := [shard for shard in shards if shard.index not in done]:
            run(night, todo)


@contextmanager
def noted_cost(night: Night, record: RunRecord) -> Generator[None]:
    """Note in `record` what the shards of this run cost."""
    start = time.perf_counter()
    try:
        yield
    finally:
        own = [manifest for manifest in night.log.manifests().values() if manifest.run_id == night.run_id]
        record.tokens = sum(manifest.tokens for manifest in own)
        cost = {
            "rows": sum(manifest.rows_in for manifest in own),
            "shard_seconds": time.perf_counter() - start,
            "model_seconds": sum(manifest.seconds for manifest in own),  # of all workers
        }
        record.config = {**record.config, "cost": cost}


@contextmanager
def watched(night: Night, shards: Sequence[Shard], progress: Progress) -> Generator[None]:
    """Tell `progress` what is done while a runner is at work, which itself says nothing before its end."""
    total = sum(shard.row_count for shard in shards)
    told = 0

    def tell() -> None:
        nonlocal told
        done, at_work = night.log.finished(), working.rows_at_work()
        done_rows = sum(shard.row_count for shard in shards if shard.index in done)
        told = min(total, max(told, done_rows + at_work))  # it may have ended meanwhile
        progress(night.job.unit, told, total)

    with repeated(tell, POLL_SECONDS):
        yield
    tell()


def publish(
    inputs: NightInputs, night: Night, shards: Sequence[Shard], since: Mapping[str, Counts], record: RunRecord
) -> Mapping[str, int]:
    """Commit what the shards made, a table at a time, and note in `record` what that is and the versions made.

    Returns:
        What the job counted besides rows.

    Raises:
        PplugError: if the shards do not hold every row that was planned, exactly once.
        CommitConflict: if another run wrote the night since this one began.
    """
    manifests = checked_manifests(night, shards)
    record.rows_in = sum(manifest.rows_in for manifest in manifests)
    record.rows_out = sum(manifest.rows_out for manifest in manifests)
    record.rows_rejected = sum(manifest.rows_rejected for manifest in manifests)
    planned = sum(shard.row_count for shard in shards)
    if not planned == record.rows_in == record.rows_out + record.rows_rejected:
        told = f"{planned} rows planned, {record.rows_in} read, {record.rows_out} kept, {record.rows_rejected} rejected"
        night.log.drop(shard.index for shard in shards)
        raise PplugError(f"{record.job} ds={night.ds} is not published, rows are missing: {told}: run it again")
    night.lease.require()
    for table in inputs.writes:
        files = files_of(manifests, table, night.ds)
        version = inputs.warehouse.publish(table, night.ds, record.run_id, files, since[table])
        record.versions = {**record.versions, table: version}
    files = files_of(manifests, "rejects", night.ds)
    inputs.warehouse.replace_rejects(record.job, night.ds, record.run_id, files)
    counts = Counter[str]()
    for manifest in manifests:
        counts.update(manifest.counts)
    counted = {table: counts[f"ds={night.ds.isoformat()}"] + 1 for table, counts in since.items()}
    rows = {table: sum(file.rows for file in files_of(manifests, table, night.ds)) for table in inputs.writes}
    record.config = {**record.config, **counts, "published": counted, PUBLISHED_ROWS: rows}
    return counts


def checked_manifests(night: Night, shards: Sequence[Shard]) -> list[Manifest]:
    """Read the manifests of all shards; raises PplugError if one is missing, or its files are not as it says."""
    unfit = set(night.log.unfit(night.run_id))
    there = {index: manifest for index, manifest in night.log.manifests().items() if index not in unfit}
    missing = [shard for shard in shards if shard.index not in there]
    if missing:
        raise PplugError(f"{len(missing)} of {len(shards)} shards are unfinished: run the command again")
    return [there[shard.index] for shard in shards]


def files_of(manifests: Sequence[Manifest], table: str, ds: date) -> list[DataFile]:
    """The files of a table, in the order of the shards; a shard without rows has none."""
    return [
        DataFile(file.name, ds, file.size, file.rows)
        for manifest in manifests
        for file in manifest.files
        if file.table == table
    ]
