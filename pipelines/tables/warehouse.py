"""The tables of a place: what their newest versions hold, and what runs bring into them and take out."""

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pd
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from embedder.durable import make_folder
from embedder.errors import PplugError, UsageError
from pipelines.store.folder import named_causes
from pipelines.store.stored import Store, open_store
from pipelines.tables.commits import Change, RunCommits, retried
from pipelines.tables.data_files import SWAP, Counts, DataFile, counts_of, live_files, new_name
from pipelines.tables.delta_log import lost_entry, require_commits, sync_log
from pipelines.tables.parquet import parquet_bytes, write_batches
from pipelines.tables.schema import SCHEMA_VERSION, TABLES, file_schema

VERSION_KEY: Final = "pplug.schemaVersion"


class Staged(NamedTuple):
    """A finished file of this machine that shall go into a table."""

    ds: date
    path: Path
    born: int = 0  # that of the live file whose rows these are; 0 for rows that are new


class Warehouse:
    """A place of Delta tables. Opening one reads its log anew; nothing is cached."""

    def __init__(self, place: Path | str | Store, options: Mapping[str, str] | None = None) -> None:
        self.store = open_store(place, options) if isinstance(place, Path | str) else place

    def __str__(self) -> str:
        return str(self.store)

    @property
    def root(self) -> Path:
        """The folder of a warehouse on this machine; raises PplugError if it is in an object store."""
        if self.store.folder is None:
            raise PplugError(f"{self} is no folder of this machine: name a folder with --warehouse")
        return self.store.folder

    def folder(self, name: str) -> Path:
        _known(name)
        return self.root / name

    def table(self, name: str, version: int | None = None) -> DeltaTable | None:
        """Open a table, as of a version if given; None if it does not exist yet.

        Raises:
            PplugError: if it was written by another version of pplug, or by something else; or if the version that
                is asked for is not there.
        """
        uri, options = f"{self.store.uri}/{_known(name)}", dict(self.store.options)
        if self.store.folder is not None:
            with named_causes(f"{self}/{name}"):
                require_commits(self.folder(name))
        try:
            if not DeltaTable.is_deltatable(uri, options):
                if version is None:
                    return None
                raise PplugError(f"{self}/{name} version {version} is not seen from this machine: share the warehouse")
            table = DeltaTable(uri, version=version, storage_options=options)
        except (DeltaError, OSError) as error:
            if self.store.folder is not None and isinstance(error, DeltaError) and version is None:
                raise PplugError(lost_entry(self.folder(name))) from error
            said = str(error).partition("\n")[0][:300]
            raise PplugError(f"{self}/{name} cannot be read ({said}): restore it, or check --warehouse") from error
        found = table.metadata().configuration.get(VERSION_KEY)
        if found is None:
            raise PplugError(f"{self}/{name} was not made by pplug: choose another --warehouse")
        if int(found) != SCHEMA_VERSION:
            told = f"{self}/{name} has schema version {found}, this pplug reads {SCHEMA_VERSION}"
            raise PplugError(f"{told}: run `pplug ingest histories FILE` and `pplug encode` with a new --warehouse")
        return table

    def create(self, name: str) -> DeltaTable:
        """Open a table, made empty if it does not exist yet."""
        found = self.table(name)
        if found is not None:
            return found
        with named_causes(f"{self}/{name}"):
            if self.store.folder is not None:
                make_folder(self.folder(name))
            try:
                made = DeltaTable.create(
                    f"{self.store.uri}/{name}",
                    TABLES[name],
                    partition_by=["ds"],
                    configuration={VERSION_KEY: str(SCHEMA_VERSION)},
                    raise_if_key_not_exists=False,
                    storage_options=dict(self.store.options),
                )
            except DeltaError:
                made = self.table(name)  # by another run, at the same time
                if made is None:
                    raise
            if self.store.folder is not None:
                sync_log(self.folder(name))
            return made

    def version(self, name: str) -> int | None:
        """Newest Delta version of a table, None if it does not exist."""
        table = self.table(name)
        return None if table is None else table.version()

    def versions(self, names: Iterable[str] = TABLES) -> dict[str, int]:
        """Newest Delta version of those of the tables that exist; readers that share them see the same rows."""
        return {name: version for name in names if (version := self.version(name)) is not None}

    def live(self, name: str, version: int | None = None) -> list[DataFile]:
        """The live files of a table, in a fixed order."""
        table = self.table(name, version)
        return [] if table is None else live_files(name, table)

    def copied_files(self, name: str, version: int, folder: Path) -> dict[Path, DataFile]:
        """The live files of a table by where they are on this machine: their own place, or copies below a folder."""
        files = self.live(name, version)
        if self.store.folder is None:
            self._copy((file.name for file in files), folder)
        return {(self.store.folder or folder) / file.name: file for file in files}

    def _copy(self, names: Iterable[str], folder: Path) -> None:
        """Copy objects of the store below a folder of this machine."""
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.store.get(name) or b"")

    def counts(self, name: str, ds: date) -> Counts:
        """What a table counts of a night now; name it to `publish` when the rows are made."""
        table = self.table(name)
        return {f"ds={ds.isoformat()}": 0, SWAP: 0} if table is None else counts_of(table, ds)

    def dataset(self, name: str, files: Sequence[DataFile]) -> pd.FileSystemDataset:
        """Files of a table as a pyarrow dataset that knows each file's night."""
        form = pd.ParquetFileFormat(default_fragment_scan_options=pd.ParquetFragmentScanOptions(pre_buffer=True))
        system = self.store.filesystem()
        fragments = [
            form.make_fragment(file.name, system, partition_expression=pc.field("ds") == pa.scalar(file.ds))
            for file in files
        ]
        return pd.FileSystemDataset(fragments, TABLES[name], form, system)

    def publish(
        self, name: str, ds: date, run_id: str, files: Sequence[Path | DataFile], since: Counts | None = None
    ) -> int:
        """Replace one night of a table by the rows of finished files; no files, no rows.

        Files of this machine are put into the store; others lie in the table's folder already. `since` is what the
        table counted when they were begun; now unless given.

        Returns:
            A Delta version that holds them: the first one, unless another night was written at that moment.

        Raises:
            CommitConflict: if another run wrote the same night since then, or took out files; its rows stand.
        """
        table = self.create(name)
        since = counts_of(table, ds) if since is None else since
        RunCommits(self.store, name, run_id).replace_night(table, ds, files, since)
        table.update_incremental()
        return table.version()

    def append(self, name: str, ds: date, run_id: str, rows: pa.Table) -> None:
        packed = parquet_bytes(rows.select(file_schema(name).names).cast(file_schema(name)))
        file = DataFile(new_name(name, ds, run_id), ds, len(packed), rows.num_rows)
        table = self.create(name)
        self.store.put(file.name, packed)
        RunCommits(self.store, name, run_id).change(table, Change([file], [], {}))

    def replace_rejects(
        self, job: str, ds: date, run_id: str, files: Sequence[Path | DataFile], sources: Sequence[str] | None = None
    ) -> None:
        """Replace what a job refused in a night, of some sources if given, by the rows of finished files."""
        commits, own = RunCommits(self.store, "rejects", run_id), pc.field("job") == job
        if sources is not None:
            own &= pc.field("source").isin(list(sources))

        def attempt() -> None:
            table = self.create("rejects")
            night = [file for file in live_files("rejects", table) if file.ds == ds]
            old = self.dataset("rejects", night)
            if not files and not old.count_rows(filter=own):
                return
            columns = file_schema("rejects")
            with self.staging(f"{run_id}_rejects-{uuid.uuid4().hex}") as folder:
                kept = write_batches(folder / "kept", columns, old.to_batches(columns=columns.names, filter=~own))
                commits.replace_night(table, ds, [*kept, *files], counts_of(table, ds))

        retried(attempt)

    def swap(
        self, name: str, run_id: str, removed: Sequence[DataFile], added: Sequence[Staged], read_version: int
    ) -> None:
        """Take live files out of a table and files of this machine into their nights, in one transaction.

        For a table that is written by `swap` only, or that nobody else writes to meanwhile. What goes stays in the
        store for readers of older versions; without files nothing is done. `read_version` is the one that both kinds of
        files were computed from.

        Raises:
            CommitConflict: if the table was changed since `read_version`; compute the files again.
        """
        if not (removed or added):
            return
        table = self.table(name, read_version)
        if table is None:
            raise PplugError(f"no table {name} version {read_version} in {self}: run the command again")
        commits, next_version = RunCommits(self.store, name, run_id), read_version + 1
        new = [file for ds, path, born in added for file in commits.put(ds, path, born or next_version)]
        commits.change(table, Change(new, removed, {SWAP: next_version}))

    @contextlib.contextmanager
    def copied(self) -> Generator[Path]:
        """The warehouse as a folder of this machine: itself, or a copy of everything in the object store."""
        if self.store.folder is not None:
            yield self.store.folder
            return
        with tempfile.TemporaryDirectory(prefix="pplug-") as folder:
            self._copy((entry.name for entry in self.store.list()), Path(folder))
            yield Path(folder)

    @contextlib.contextmanager
    def staging(self, name: str) -> Generator[Path]:
        """A folder of this machine for unfinished files, gone afterwards, also on error.

        Its name is a run id, or one with `_` and more behind it: when the run was killed, the next one removes it.
        """
        if self.store.folder is None:
            with tempfile.TemporaryDirectory(prefix="pplug-") as folder:
                yield Path(folder)
            return
        folder = self.root / "_staging" / name
        with named_causes(folder):
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def _known(name: str) -> str:
    if name not in TABLES:
        raise UsageError(f"no table {name!r}: there are {', '.join(TABLES)}")
    return name
