"""Bring files of users' histories and tasks into the warehouse; what cannot be taken goes to `rejects`.

    file ─▶ records ─▶ parse ─▶ staged rows ─▶ one row per key ─▶ upsert
                         └─────────┴──────────▶ rejects (reason)

Every row read is counted once, as taken or as refused. Rows wait on disk, so that memory stays bounded.
"""

import contextlib
import tempfile
import uuid
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from llm_jobs.kinds import Kind
from pipelines.erasure.forgotten import read_forgotten
from pipelines.intake.lamp import read_lamp
from pipelines.intake.lamp_files import read_golds
from pipelines.intake.records import records, require_files
from pipelines.intake.references import ReferenceCounts
from pipelines.intake.rows import Refusal, Row, parse_history, parse_task, shown
from pipelines.intake.waiting import Intake
from pipelines.nights.runs import recorded_run
from pipelines.tables.schema import KEYS, TABLES, file_schema
from pipelines.tables.upsert import scratch, upsert
from pipelines.tables.views import quoted
from pipelines.tables.warehouse import Warehouse, retried

BATCH_ROWS: Final = 5_000


@dataclass(frozen=True)
class IngestResult:
    """What became of the rows of a file."""

    rows_in: int = 0
    """= rows_out + rows_rejected"""
    rows_out: int = 0
    """Rows taken; the same row twice in a file counts twice here and once below."""
    rows_rejected: int = 0
    unchanged: int = 0
    """Keys whose row was there already, or whose deletion found none."""
    changed: int = 0
    """Keys that are new or have a new row."""
    deleted: int = 0

    def __add__(self, other: "IngestResult") -> "IngestResult":
        return IngestResult(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def settle(intake: Intake, name: str) -> Path:
    """The staged rows of a table, one per key; a key with different rows is refused with all of them."""
    keys = ", ".join(key for key in KEYS[name] if key != "ds")
    columns = ", ".join([*file_schema(name).names, "deleted"])
    text = "text" if name == "histories" else "input"
    settled = intake.folder / f"{name}.settled.parquet"
    intake.tables[name].close()
    with scratch(intake.folder) as db:
        db.read_parquet(quoted(intake.tables[name].path)).create_view("staged")
        db.execute(f"create temp table different as select distinct {columns} from staged")
        db.execute(f"create temp table conflicting as select {keys} from different group by all having count(*) > 1")
        db.sql(f"select * from different anti join conflicting using ({keys})").write_parquet(str(settled))
        refused = f"select row_id, {text}, user_id from staged semi join conflicting using ({keys}) order by row_id"
        rows = db.execute(refused)
        while found := rows.fetchmany(BATCH_ROWS):
            for row_id, detail, user_id in found:
                intake.refuse(row_id, Refusal("conflicting_key", shown(detail or "deleted"), user_id))
    return settled


def ingest_source(
    warehouse: Warehouse,
    job: str,
    source: Path,
    ds: date,
    run_id: str,
    names: Sequence[str],
    fill: Callable[[Intake], None],
    *,
    dry_run: bool,
) -> IngestResult:
    """Stage what `fill` reads, settle it, and write it."""
    forgotten = read_forgotten(warehouse)
    with contextlib.ExitStack() as stack:
        place = tempfile.TemporaryDirectory() if dry_run else warehouse.staging(run_id)
        folder = Path(stack.enter_context(place))
        intake = stack.enter_context(Intake.opened(folder, job, source, run_id, names, forgotten))
        fill(intake)
        rows_in = intake.rejects.count + sum(staged.count for staged in intake.tables.values())
        unchanged = changed = deleted = 0
        for name in names:
            settled = settle(intake, name)
            new, gone = retried(partial(upsert, warehouse, name, ds, run_id, settled, dry_run=dry_run))
            unchanged += pq.read_metadata(settled).num_rows - new - gone
            changed += new
            deleted += gone
        intake.rejects.close()
        rejected = intake.rejects.count
        if not dry_run:
            files = [intake.rejects.path] if rejected else []
            warehouse.replace_rejects(job, ds, run_id, files, intake.source)
    return IngestResult(rows_in, rows_in - rejected, rejected, unchanged, changed, deleted)


def ingest_histories(
    warehouse: Warehouse,
    files: Sequence[Path],
    ds: date,
    kinds: Container[str],
    *,
    dry_run: bool = False,
) -> IngestResult:
    """Upsert items of users' histories by (user_id, kind, item_id); an unchanged item keeps its night.

    Args:
        warehouse: written unless `dry_run`.
        files: JSONL or Parquet, taken one after the other; of a key that is in two files the later one wins.
        ds: the night of ingestion.
        kinds: names of the kinds there are.
        dry_run: count only.

    Raises:
        InputMissing: if a file is not there; then nothing is written.
    """
    return _ingest_files(warehouse, "ingest_histories", files, ds, partial(parse_history, kinds=kinds), dry_run)


def ingest_tasks(
    warehouse: Warehouse,
    files: Sequence[Path],
    ds: date,
    kinds: Container[str],
    *,
    dry_run: bool = False,
) -> IngestResult:
    """Upsert queued tasks of a night by task_id; the same id in another night is another task.

    Arguments and errors are those of `ingest_histories`.
    """
    counts = ReferenceCounts()
    parse = counts.counting(partial(parse_task, kinds=kinds))
    result = _ingest_files(warehouse, "ingest_tasks", files, ds, parse, dry_run)
    counts.warn()
    return result


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
    require_files([questions] if outputs is None else [questions, outputs])
    golds, counts = read_golds(outputs), ReferenceCounts()

    def fill(intake: Intake) -> None:
        for name, row_id, row in read_lamp(questions, golds, ds, kinds, kind, undated, counts):
            intake.take(name, row_id, row)

    def ingest(run_id: str) -> IngestResult:
        tables = ("histories", "tasks")
        return ingest_source(warehouse, "ingest_lamp", questions, ds, run_id, tables, fill, dry_run=dry_run)

    result = _recorded(warehouse, "ingest_lamp", ds, [questions], ingest, dry_run=dry_run)
    counts.warn()
    return result


def _ingest_files(
    warehouse: Warehouse,
    job: str,
    files: Sequence[Path],
    ds: date,
    parse: Callable[[object], Row | Refusal],
    dry_run: bool,
) -> IngestResult:
    require_files(files)
    name = job.removeprefix("ingest_")
    columns = {*TABLES[name].names, "deleted"}

    def fill(intake: Intake, path: Path) -> None:
        for line, record in records(path, columns):
            intake.take(name, f"{path.name}:{line}", record if isinstance(record, Refusal) else parse(record))

    def ingest(run_id: str) -> IngestResult:
        result = IngestResult()
        for path in files:
            given = partial(fill, path=path)
            result += ingest_source(warehouse, job, path, ds, run_id, (name,), given, dry_run=dry_run)
        return result

    return _recorded(warehouse, job, ds, files, ingest, dry_run=dry_run)


def _recorded(
    warehouse: Warehouse,
    job: str,
    ds: date,
    files: Sequence[Path],
    ingest: Callable[[str], IngestResult],
    *,
    dry_run: bool,
) -> IngestResult:
    """Ingest under a run id, and leave a row in `runs` unless it is a dry run."""
    if dry_run:
        return ingest(uuid.uuid4().hex)
    with recorded_run(warehouse, job, ds, {"files": [path.name for path in files]}) as record:
        result = ingest(record.run_id)
        record.rows_in, record.rows_out, record.rows_rejected = result.rows_in, result.rows_out, result.rows_rejected
    return result
