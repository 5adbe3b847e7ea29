"""The warehouse from Python: any question to its tables, personas as of a night, and a whole night.

It is the class of `pipelines.tables.warehouse`, and every function that takes that one takes this one; what is added
here calls the jobs, which tables know nothing of.
"""

import tempfile
import uuid
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final, Literal

import duckdb
import pyarrow.parquet as pq

from embedder.devices import Dtype
from embedder.errors import UsageError
from llm_jobs.kinds import load_kinds
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig, encode_job
from pipelines.generate import generate_job
from pipelines.ingest import IngestConfig, IngestResult, ingest_histories, ingest_tasks
from pipelines.library.frames import as_arrow
from pipelines.library.quiet import without_bars
from pipelines.library.rows import kind_named
from pipelines.nightly import run_nightly
from pipelines.nights import working
from pipelines.nights.job import Night
from pipelines.nights.runners import Runner, kept_interruption
from pipelines.nights.runs import Progress, no_progress
from pipelines.nights.shards import Shard
from pipelines.nights.steps import Step, raise_worst
from pipelines.tables import warehouse as tables
from pipelines.tables.schema import TABLES
from pipelines.tables.statements import reading_text
from pipelines.tables.views import make_views, open_database

MAX_REJECT_RATE: Final = 0.05


class HereRunner(Runner):
    """Computes one shard after the other in this process, without Beam, which cannot name its steps in a notebook.

    Beam 2.77 imports its DataFrames for that, and pandas 3.1 lacks a method that these look for.
    """

    def run(self, night: Night, shards: Sequence[Shard]) -> None:
        """Finish the shards."""
        with kept_interruption():
            working.finish(night, shards)


class Warehouse(tables.Warehouse):
    """A place of Delta tables, with what the commands do to them.

    Args:
        place: a folder, or s3://, gs://, az:// or abfss://.
        options: of the object store, as in [warehouse.options] of pplug.toml.

    Example:
        ```python
        Warehouse("warehouse").sql("select kind, count(*) as task_count from outputs group by kind").df()
        ```
    """

    def sql(self, query: str, params: Mapping[str, Any] | None = None) -> duckdb.DuckDBPyRelation:
        """Ask DuckDB; every table is a view as it is now. Nothing is computed before you look at the relation.

        Args:
            query: one statement that only reads, as for `pplug sql`.
            params: values of its `$names`.

        Returns:
            A relation: `.df()` makes a DataFrame of pandas, `.pl()` of Polars, `.to_arrow_table()` a table of Arrow.

        Raises:
            UsageError: if DuckDB does not understand it, or it would do more than read.
            PplugError: if a table cannot be read.
        """
        db = self._connection()
        try:
            return db.sql(reading_text(db, query, "correct it"), params=None if params is None else dict(params))
        except duckdb.Error as error:
            raise UsageError(f"{str(error).partition(chr(10))[0]}: correct the query") from error

    def personas(self, ds: date | str | None = None) -> duckdb.DuckDBPyRelation:
        """Every user's persona as of a night; the newest one unless given.

        Args:
            ds: the night, a date or text like 2026-11-01.

        Returns:
            A relation with a row for each user, from the full history as of then: the columns of `persona_vectors`.
        """
        db = self._connection()
        return db.sql("from personas") if ds is None else db.sql("from personas_at($ds)", params={"ds": _night(ds)})

    def ingest(
        self,
        table: Literal["histories", "tasks"],
        frame: Any,
        ds: date | str,
        *,
        kind: str | None = None,
        columns: Mapping[str, str] | None = None,
        kinds: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> IngestResult:
        """Bring a DataFrame into the warehouse, as `pplug ingest` does with a file: bad rows go to `rejects`.

        Args:
            table: what its rows are.
            frame: of pandas or Polars, or a table of Arrow.
            ds: the night of ingestion.
            kind: of the rows that name none.
            columns: what the frame calls columns of ours, as {"user_id": "author"}.
            kinds: kinds of your own, as the tables [kinds.NAME] of pplug.toml.

        Returns:
            What became of the rows.
        """
        known = load_kinds(kinds)
        config = IngestConfig(columns=dict(columns or {}), kind=kind and kind_named(kind, known).name)
        ingest = {"histories": ingest_histories, "tasks": ingest_tasks}[table]
        with tempfile.TemporaryDirectory(prefix="pplug-") as folder:
            file = Path(folder, f"{table}.parquet")
            pq.write_table(as_arrow(frame, table), file)
            return ingest(self, [file], _night(ds), known, config)

    def run_night(
        self,
        ds: date | str,
        plugs: Sequence[Path | str],
        *,
        kinds: Mapping[str, Mapping[str, Any]] | None = None,
        encoder: str = "minilm",
        llm: str = "smollm2",
        dtype: Dtype = "auto",
        llm_dtype: Dtype = "auto",
        workers: int = 1,
        force: bool = False,
        progress: Progress = no_progress,
    ) -> list[Step]:
        """Encode, generate and check a night, as `pplug nightly` does; what is done already stays done.

        Args:
            ds: the night, a date or text like 2026-11-01.
            plugs: folders of plugs, one for each kind of task.
            kinds: kinds of your own, as the tables [kinds.NAME] of pplug.toml.
            encoder: alias, folder or hub id of the text encoder.
            llm: alias, folder or hub id of the language model.
            dtype: precision of the encoder; auto: the one of the last night.
            llm_dtype: precision of the language model.
            workers: processes of this machine that compute; one is this one.
            force: compute everything anew.
            progress: called with what is counted, how many are done and how many there are.

        Returns:
            How each step ended: job, status, seconds, rows_in, rows_out, rows_rejected.

        Raises:
            StepsFailed: if one did not end well; what the others did stays.
        """
        models = GenerateConfig(llm=llm, llm_dtype=llm_dtype, encoder=encoder, dtype=dtype)
        encoding = EncodeConfig(encoder=encoder, dtype=dtype)
        folders = [Path(plug) for plug in plugs]
        runner = Runner(workers) if workers > 1 else HereRunner()
        known = load_kinds(kinds)
        encode = encode_job(encoding, known, force=force, runner=runner)
        jobs = (encode, generate_job(folders, models, known, force=force, runner=runner))
        with without_bars():
            steps = list(run_nightly(self, _night(ds), jobs, MAX_REJECT_RATE, progress, runner))
        raise_worst(steps)
        return steps

    def _connection(self) -> duckdb.DuckDBPyConnection:
        """A connection that lives as long as the relations made with it."""
        spill = str(Path(tempfile.gettempdir(), f"pplug-{uuid.uuid4().hex}"))
        db = open_database(spill)
        make_views(db, self, {name: self.live(name) for name in TABLES})
        return db


def _night(ds: date | str) -> date:
    try:
        return ds if isinstance(ds, date) else date.fromisoformat(ds)
    except ValueError as error:
        raise UsageError(f"ds = {ds!r} is no day: write it like 2026-11-01") from error
