"""Bring files of users' histories and tasks into the warehouse; what cannot be taken goes to `rejects`.

    sources ─▶ chunks ─▶ checked column by column ─▶ staged rows ─▶ upsert: one row a key
                  └────────────────┴──────────────▶ rejects (reason)

Every row read is counted once, as taken or as refused. Rows wait on disk, so that memory stays bounded. All sources of
a command are one: of the rows of a key a deletion wins, then the last one, however the rows are spread over files.
"""

import contextlib
import logging
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

from embedder.errors import UsageError
from llm_jobs.kinds import Kind
from pipelines.erasure.user_key import read_forgotten
from pipelines.intake.advice import advice
from pipelines.intake.checks import RowRules, renamed
from pipelines.intake.chunks import Chunk
from pipelines.intake.lamp import LampRules, lamp_chunks
from pipelines.intake.lamp_files import read_golds
from pipelines.intake.sources import expanded, opened, read_chunks
from pipelines.intake.sql_rows import SQL, sql_chunks
from pipelines.intake.staging import Intake
from pipelines.intake.times import Years
from pipelines.nights.runs import recorded_run
from pipelines.tables.commits import retried
from pipelines.tables.upsert import upsert
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)

Chunks = Iterator[tuple[str, str, Chunk]]  # table, name of the source, and rows of it


@dataclass(frozen=True)
class IngestResult:
    """What became of the rows of some sources."""

    rows_in: int = 0  # = rows_out + rows_rejected
    rows_out: int = 0  # = unchanged + changed + deleted + left_alone + superseded
    rows_rejected: int = 0
    unchanged: int = 0  # keys whose row was there already, or whose deletion found none
    changed: int = 0  # keys that are new or have a new row
    deleted: int = 0
    left_alone: int = 0  # keys that a later night wrote or deleted
    superseded: int = 0  # rows of a key of which another row counts


@dataclass(frozen=True)
class IngestConfig:
    """How files of histories or tasks are read."""

    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    """What a file calls columns of ours, as {"user_id": "author"}; the others have our names."""
    kind: str | None = None
    """Kind of the rows that name none."""
    any_year: bool = False
    """Take times of all years, and not only from 1990 to the next."""
    overwrite_newer: bool = False
    """Also replace what a later night wrote or deleted."""
    sql: str | None = None
    """A query whose rows are read beside those of the files."""


def ingest_files(
    warehouse: Warehouse,
    files: Sequence[Path],
    ds: date,
    kinds: Container[str],
    config: IngestConfig = IngestConfig(),
    *,
    table: str,
    dry_run: bool = False,
) -> IngestResult:
    """Upsert rows of files by their key; a row that does not change keeps its night.

    The key is (user_id, kind, item_id) in the table `histories`, and task_id within a night in `tasks`. Files may be
    folders and globs, and `-` for standard input; their order counts where a key is in two of them. `kinds` are names,
    or a mapping, whose prompts can then be written. With `dry_run` rows are only counted.

    Raises:
        InputMissing: if a file is not there; then nothing is written.
        UsageError: if the settings do not fit the table.
    """
    if not files and config.sql is None:
        raise UsageError(f"nothing to read: pplug ingest {table} FILE, or --sql 'select ...'")
    options = warehouse.store.options
    columns, sources = renamed(table, config.columns), expanded(files, options)

    def chunks(folder: Path) -> Chunks:
        for source in sources:
            yield from ((table, source.name, chunk) for chunk in read_chunks(source, columns, folder))
        if config.sql is not None:
            yield from ((table, SQL, chunk) for chunk in sql_chunks(config.sql, columns, folder, options))

    years = Years() if config.any_year else _usual_years(ds)
    rules = RowRules(kinds, years, read_forgotten(warehouse), config.kind, ds)
    names = [source.name for source in sources] + ([SQL] if config.sql is not None else [])
    ingestion = Ingestion(f"ingest_{table}", ds, (table,), names, rules, chunks, config)
    return _run(warehouse, ingestion, [source.label for source in sources], dry_run=dry_run)


ingest_histories = partial(ingest_files, table="histories")
ingest_tasks = partial(ingest_files, table="tasks")


def ingest_lamp(
    warehouse: Warehouse,
    questions: Path,
    outputs: Path | None,
    ds: date,
    kinds: Mapping[str, Kind],
    *,
    kind: str | None = None,
    undated: date | None = None,
    dry_run: bool = False,
) -> IngestResult:
    """Upsert LaMP questions as tasks of a night, and their profiles as histories.

    A question counts as one row, each item of its profile as one more. Without `outputs`, LaMP's other file, tasks
    have no reference. The kind is found out unless given. Items without a date are refused unless `undated` is their
    day. With `dry_run` rows are only counted.

    Raises:
        InputMissing: if a file is not there.
        PplugError: if the outputs file is not of LaMP's shape.
        UsageError: if the kind cannot be found out.
    """
    source, *_ = [expanded([path])[0] for path in (questions, outputs) if path is not None]
    golds = read_golds(outputs)

    def chunks(folder: Path) -> Chunks:
        with opened(source, folder) as file:
            for table, chunk in lamp_chunks(source.label, file, golds, LampRules(ds, kinds, kind, undated)):
                yield table, source.name, chunk

    years = _usual_years(ds)
    years = years if undated is None else replace(years, first=min(years.first, undated.year))
    rules = RowRules(kinds, years, read_forgotten(warehouse))
    ingestion = Ingestion("ingest_lamp", ds, ("histories", "tasks"), [source.name], rules, chunks)
    return _run(warehouse, ingestion, [source.label], dry_run=dry_run)


@dataclass(frozen=True)
class Ingestion:
    """What one command ingests."""

    job: str
    ds: date
    tables: Sequence[str]
    sources: Sequence[str]  # names of the sources, as in `rejects`
    rules: RowRules
    chunks: Callable[[Path], Chunks]  # reads them; a folder is there for what does not fit into memory
    config: IngestConfig = IngestConfig()


def stage_and_write(warehouse: Warehouse, what: Ingestion, run_id: str, *, dry_run: bool) -> IngestResult:
    """Stage what is read on disk, then write it."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory() if dry_run else warehouse.staging(run_id))
        intake = stack.enter_context(Intake.opened(Path(folder), what.job, run_id, what.tables, what.rules))
        for table, source, chunk in what.chunks(Path(folder)):
            intake.take(table, source, chunk)
        counts = Counter[str]()
        for table, staged in intake.tables.items():
            staged.close()
            write = partial(upsert, warehouse, table, what.ds, run_id, staged.path)
            counts.update(retried(partial(write, overwrite_newer=what.config.overwrite_newer, dry_run=dry_run)))
        intake.rejects.close()
        rejected = intake.rejects.count
        if not dry_run:
            rejects = [intake.rejects.path] if rejected else []
            warehouse.replace_rejects(what.job, what.ds, run_id, rejects, what.sources)
    intake.warnings.log()
    for line in advice(intake.seen, what.tables, what.config.columns, what.rules):
        logger.warning(line)
    taken = intake.rows_in - rejected
    return IngestResult(intake.rows_in, taken, rejected, **counts, superseded=taken - counts.total())


def _run(warehouse: Warehouse, what: Ingestion, labels: Sequence[str], *, dry_run: bool) -> IngestResult:
    """Ingest under a run id, and leave a row in `runs` unless it is a dry run."""
    if dry_run:
        return stage_and_write(warehouse, what, uuid.uuid4().hex, dry_run=True)
    with recorded_run(warehouse, what.job, what.ds, {"files": list(labels)}) as record:
        result = stage_and_write(warehouse, what, record.run_id, dry_run=False)
        record.rows_in, record.rows_out, record.rows_rejected = result.rows_in, result.rows_out, result.rows_rejected
    return result


def _usual_years(ds: date) -> Years:
    return Years.until(max(ds.year, datetime.now(UTC).year))
