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
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

from embedder.errors import UsageError
from llm_jobs.kinds import Kind
from pipelines.erasure.forgotten import read_forgotten
from pipelines.intake.advice import advice
from pipelines.intake.checks import Rules, renamed
from pipelines.intake.lamp import lamp_chunks
from pipelines.intake.lamp_files import read_golds
from pipelines.intake.sources import expanded, opened, read_chunks
from pipelines.intake.sql_rows import SQL, sql_chunks
from pipelines.intake.times import Years
from pipelines.intake.waiting import Intake
from pipelines.nights.runs import recorded_run
from pipelines.tables.upsert import Upserted, upsert
from pipelines.tables.warehouse import Warehouse, retried

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestResult:
    """What became of the rows of some sources."""

    rows_in: int = 0
    """= rows_out + rows_rejected"""
    rows_out: int = 0
    """= unchanged + changed + deleted + left_alone + superseded"""
    rows_rejected: int = 0
    unchanged: int = 0
    """Keys whose row was there already, or whose deletion found none."""
    changed: int = 0
    """Keys that are new or have a new row."""
    deleted: int = 0
    left_alone: int = 0
    """Keys that a later night wrote or deleted."""
    superseded: int = 0
    """Rows of a key of which another row counts."""


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


def ingest_histories(
    warehouse: Warehouse,
    files: Sequence[Path],
    ds: date,
    kinds: Container[str],
    config: IngestConfig = IngestConfig(),
    *,
    dry_run: bool = False,
) -> IngestResult:
    """Upsert items of users' histories by (user_id, kind, item_id); an unchanged item keeps its night.

    Args:
        warehouse: written unless `dry_run`.
        files: files, folders and globs, and `-` for standard input; the order counts where a key is in two of them.
        ds: the night of ingestion.
        kinds: names of the kinds there are.
        config: how the files are read.
        dry_run: count only.

    Raises:
        InputMissing: if a file is not there; then nothing is written.
        UsageError: if the settings do not fit the table.
    """
    return _ingest_files(warehouse, "histories", files, ds, kinds, config, dry_run=dry_run)


def ingest_tasks(
    warehouse: Warehouse,
    files: Sequence[Path],
    ds: date,
    kinds: Container[str],
    config: IngestConfig = IngestConfig(),
    *,
    dry_run: bool = False,
) -> IngestResult:
    """Upsert queued tasks of a night by task_id; the same id in another night is another task.

    Arguments and errors are those of `ingest_histories`.
    """
    return _ingest_files(warehouse, "tasks", files, ds, kinds, config, dry_run=dry_run)


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

    Args:
        warehouse: written unless `dry_run`.
        questions: LaMP's questions file. A question counts as one row, each item of its profile as one more.
        outputs: LaMP's outputs file; without it tasks have no reference.
        ds: the night.
        kinds: the kinds there are.
        kind: name of the questions' kind, found out unless given.
        undated: day of profile items without a date; they are refused unless given.
        dry_run: count only.

    Raises:
        InputMissing: if a file is not there.
        PplugError: if the outputs file is not of LaMP's shape.
        UsageError: if the kind cannot be found out.
    """
    source, *_ = [expanded([path])[0] for path in (questions, outputs) if path is not None]
    golds = read_golds(outputs)
    years = _usual_years(ds)
    years = years if undated is None else replace(years, first=min(years.first, undated.year))

    def fill(intake: Intake, folder: Path) -> None:
        with opened(source) as file:
            for name, chunk in lamp_chunks(source.label, file, golds, ds, kinds, kind, undated):
                intake.take(name, source.name, chunk)

    rules, job, tables = Rules(kinds, years, read_forgotten(warehouse)), "ingest_lamp", ("histories", "tasks")
    ingest = partial(
        stage_and_write, warehouse, job, ds, tables, rules, [source.name], fill, IngestConfig(), dry_run=dry_run
    )
    return _recorded(warehouse, job, ds, [source.label], ingest, dry_run=dry_run)


def _ingest_files(
    warehouse: Warehouse,
    name: str,
    files: Sequence[Path],
    ds: date,
    kinds: Container[str],
    config: IngestConfig,
    *,
    dry_run: bool,
) -> IngestResult:
    if not files and config.sql is None:
        raise UsageError(f"nothing to read: pplug ingest {name} FILE, or --sql 'select ...'")
    columns = renamed(name, config.columns)
    sources = expanded(files)
    years = Years.any() if config.any_year else _usual_years(ds)

    def fill(intake: Intake, folder: Path) -> None:
        for source in sources:
            for chunk in read_chunks(source, columns, folder):
                intake.take(name, source.name, chunk)
        if config.sql is not None:
            for chunk in sql_chunks(config.sql, columns, folder):
                intake.take(name, SQL, chunk)

    rules = Rules(kinds, years, read_forgotten(warehouse), config.kind)
    names = [source.name for source in sources] + ([SQL] if config.sql is not None else [])
    ingest = partial(
        stage_and_write, warehouse, f"ingest_{name}", ds, (name,), rules, names, fill, config, dry_run=dry_run
    )
    labels = [source.label for source in sources]
    return _recorded(warehouse, f"ingest_{name}", ds, labels, ingest, dry_run=dry_run)


def _usual_years(ds: date) -> Years:
    return Years.until(max(ds.year, datetime.now(UTC).year))


def stage_and_write(
    warehouse: Warehouse,
    job: str,
    ds: date,
    names: Sequence[str],
    rules: Rules,
    sources: Sequence[str],
    fill: Callable[[Intake, Path], None],
    config: IngestConfig,
    run_id: str,
    *,
    dry_run: bool,
) -> IngestResult:
    """Stage what `fill` reads, and write it."""
    with contextlib.ExitStack() as stack:
        place = tempfile.TemporaryDirectory() if dry_run else warehouse.staging(run_id)
        folder = Path(stack.enter_context(place))
        intake = stack.enter_context(Intake.opened(folder, job, run_id, names, rules))
        fill(intake, folder)
        total = Upserted()
        for name, staged in intake.tables.items():
            staged.close()
            what = (warehouse, name, ds, run_id, staged.path)
            total += retried(partial(upsert, *what, overwrite_newer=config.overwrite_newer, dry_run=dry_run))
        intake.rejects.close()
        rejected = intake.rejects.count
        if not dry_run:
            warehouse.replace_rejects(job, ds, run_id, [intake.rejects.path] if rejected else [], sources)
    intake.references.warn()
    intake.markers.warn(rules.kinds)
    for line in advice(intake.seen, names, config.columns, has_kind=config.kind is not None):
        logger.warning(line)
    taken = intake.rows_in - rejected
    return IngestResult(intake.rows_in, taken, rejected, **asdict(total), superseded=taken - total.key_count)


def _recorded(
    warehouse: Warehouse,
    job: str,
    ds: date,
    files: Sequence[str],
    ingest: Callable[[str], IngestResult],
    *,
    dry_run: bool,
) -> IngestResult:
    """Ingest under a run id, and leave a row in `runs` unless it is a dry run."""
    if dry_run:
        return ingest(uuid.uuid4().hex)
    with recorded_run(warehouse, job, ds, {"files": list(files)}) as record:
        result = ingest(record.run_id)
        record.rows_in, record.rows_out, record.rows_rejected = result.rows_in, result.rows_out, result.rows_rejected
    return result
