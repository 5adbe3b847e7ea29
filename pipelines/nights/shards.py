"""Shards: a night's work cut into ranges of users, each finished in the store before the night is published.

    users and their row counts ─▶ shards ─▶ data files below <table>/ds=<night>/ ─▶ a manifest, put if absent

A shard with a manifest is done: the next run of the same work takes it over. The folder of the manifests is named by a
fingerprint of all that determines the work, so that nothing of another setting or another input is ever taken over.
Two workers at the same shard write files of different names, and the manifest of the first one counts.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from hashlib import sha256
from typing import Any, Final

import pyarrow as pa

from embedder.errors import PplugError
from pipelines.store.stored import Store
from pipelines.tables.data_files import DataFile
from pipelines.tables.parquet import user_ranges
from pipelines.tables.schema import TABLES
from pipelines.tables.warehouse import Warehouse

SHARDS: Final = "_shards"
READERS: Final = 8  # threads that read the footers of files


@dataclass(frozen=True)
class Shard:
    """The users from `first_user` to `last_user`, both included, in the order of their ids."""

    index: int
    first_user: str
    last_user: str
    row_count: int
    files: Mapping[str, tuple[DataFile, ...]] = field(default_factory=dict[str, tuple[DataFile, ...]])
    """The files of each table that may hold something of these users."""
    part: int = 0
    parts: int = 1
    """More than one: all shards of one user who has more rows than a shard takes; this one's are those whose key hashes
    to `part`."""
    joins_parts: bool = False  # it has no rows of its own, and makes what needs all parts of its user


@dataclass(frozen=True)
class ShardFile:
    """A data file of a shard."""

    name: str
    size: int
    rows: int
    sha256: str

    @property
    def table(self) -> str:
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Manifest:
    """What a finished shard holds."""

    index: int
    run_id: str
    rows_in: int
    rows_out: int
    rows_rejected: int
    tokens: int
    seconds: float  # time in which the model computed them
    counts: Mapping[str, int] = field(default_factory=dict[str, int])  # whatever else the job counts
    files: tuple[ShardFile, ...] = ()

    @classmethod
    def parsed(cls, text: bytes) -> "Manifest":
        """Read a manifest; raises ValueError if it is none: a disk that lost power may leave such a one."""
        try:
            found = json.loads(text)
            return cls(**found | {"files": tuple(ShardFile(**file) for file in found["files"])})
        except (TypeError, KeyError) as error:
            raise ValueError("no manifest") from error


@dataclass(frozen=True)
class ShardLog:
    """The manifests of one piece of work: `_shards/<job>/<ds>/<work>/` in the store."""

    store: Store
    job: str
    ds: date
    work: str

    @property
    def folder(self) -> str:
        return f"{SHARDS}/{self.job}/{self.ds.isoformat()}/{self.work}"

    def name(self, index: int) -> str:
        return f"{self.folder}/{index:05d}.json"

    def manifest(self, index: int) -> Manifest | None:
        """What a shard holds, or None while it is unfinished."""
        found = self.store.get(self.name(index))
        try:
            manifest = None if found is None else Manifest.parsed(found)
        except ValueError:
            return None
        return manifest if manifest is not None and manifest.index == index else None

    def finished(self) -> set[int]:
        """Which shards have a manifest."""
        names = (entry.name.rpartition("/")[2] for entry in self.store.list(self.folder))
        return {int(name.removesuffix(".json")) for name in names if name[:5].isdigit() and name.endswith(".json")}

    def manifests(self) -> dict[int, Manifest]:
        found = {index: self.manifest(index) for index in sorted(self.finished())}
        return {index: manifest for index, manifest in found.items() if manifest is not None}

    def add(self, manifest: Manifest) -> bool:
        """Finish a shard; False if another worker was first, whose files then count."""
        return self.store.put_new(self.name(manifest.index), json.dumps(asdict(manifest)).encode())

    def drop(self, indices: Iterable[int]) -> None:
        """Have shards done anew."""
        self.store.delete(self.name(index) for index in indices)

    def unfit(self, run_id: str) -> list[int]:
        """Find the shards whose files are not what their manifest says; those of `run_id` are only looked for."""
        manifests = self.manifests()
        files = [file for manifest in manifests.values() for file in manifest.files]
        folders = {file.name.rpartition("/")[0] for file in files}
        sizes = {entry.name: entry.size for folder in folders for entry in self.store.list(folder)}
        fit = [
            index
            for index, manifest in manifests.items()
            if all(
                sizes.get(file.name) == file.size
                and (manifest.run_id == run_id or sha256(self.store.get(file.name) or b"").hexdigest() == file.sha256)
                for file in manifest.files
            )
        ]
        return sorted(self.finished().difference(fit))


def canonical_sha256(settings: Mapping[str, Any]) -> str:
    """Hash settings, whatever the order they are written in."""
    return sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def cut_shards(users: Iterable[tuple[str, int, int]], most: int, *, in_parts: bool = False) -> list[Shard]:
    """Cut users into shards of at most so much weight.

    Args:
        users: id, rows and weight of each, in the order of the ids.
        most: weight of a shard, unless one user alone is heavier.
        in_parts: give a user who is heavier shards of parts; the driver does not know which rows are in which, so their
            row counts are right only in sum.
    """
    shards: list[Shard] = []
    filled = 0
    for user_id, rows, weight in users:
        last = shards[-1] if shards else None
        parts = min(-(-weight // most), rows) if in_parts else 1
        if parts > 1:
            sizes = [rows // parts + (part < rows % parts) for part in range(parts)]
            new = enumerate(sizes)
            shards += [Shard(len(shards) + at, user_id, user_id, size, {}, at, parts) for at, size in new]
            filled = most
        elif last is not None and filled + weight <= most:
            shards[-1] = Shard(last.index, last.first_user, user_id, last.row_count + rows)
            filled += weight
        else:
            shards.append(Shard(len(shards), user_id, user_id, rows))
            filled = weight
    return shards


def with_files(
    shards: Sequence[Shard], warehouse: Warehouse, files: Mapping[str, Sequence[DataFile]]
) -> Iterator[Shard]:
    """Give each shard the files that may hold something of its users, by the statistics in their footers."""
    system = warehouse.store.filesystem()
    ranges = dict[str, list[tuple[DataFile, tuple[str, str] | None]]]()
    with ThreadPoolExecutor(READERS) as readers:
        for table, there in files.items():
            ranges[table] = list(zip(there, readers.map(lambda file: user_range(file, system), there), strict=True))
    for shard in shards:
        own = {table: tuple(file for file, users in there if _overlap(users, shard)) for table, there in ranges.items()}
        yield replace(shard, files=own)


def user_range(file: DataFile, system: Any) -> tuple[str, str] | None:
    """The least and the greatest user id in a file; None if its footer does not say.

    Raises:
        PplugError: if it cannot be read.
    """
    try:
        with system.open_input_file(file.name) as opened:
            ranges = user_ranges(opened, file.size)
    except (OSError, pa.ArrowInvalid) as error:
        said = str(error).partition("\n")[0]
        told = f"a file of the warehouse cannot be read ({file.name}: {said}): restore it and run again"
        raise PplugError(told) from error
    return (min(ranges)[0], max(last for _, last in ranges)) if ranges else None


def _overlap(users: tuple[str, str] | None, shard: Shard) -> bool:
    """Whether two ranges have a user in common; ids compare as their bytes in UTF-8 do."""
    return users is None or (users[0] <= shard.last_user and shard.first_user <= users[1])


def works_of_night(store: Store, job: str, ds: date) -> set[str]:
    """The fingerprints of all work on a night that was begun and not cleared away."""
    return {entry.name.split("/")[3] for entry in store.list(f"{SHARDS}/{job}/{ds.isoformat()}")}


def clear_night(warehouse: Warehouse, job: str, ds: date) -> None:
    """Forget all work on a night, once it is published, with the data files that no commit took."""
    store = warehouse.store
    works = works_of_night(store, job, ds)
    for table in TABLES if works else ():
        live = {file.name for file in warehouse.live(table)}
        there = (entry.name for entry in store.list(f"{table}/ds={ds.isoformat()}"))
        gone = (name for name in there if name not in live and name.rpartition("/")[2].rsplit("-", 2)[0] in works)
        store.delete(gone)
        for work in works:
            store.delete_unfinished(f"{table}/ds={ds.isoformat()}", work)
    store.delete(entry.name for entry in store.list(f"{SHARDS}/{job}/{ds.isoformat()}"))


def data_name(table: str, ds: date, work: str, index: int, attempt: str) -> str:
    """The name of a data file of a shard."""
    return f"{table}/ds={ds.isoformat()}/{work}-{index:05d}-{attempt}.parquet"


def tokens_of_run(store: Store, job: str, ds: date, run_id: str) -> int:
    """Count the tokens of the shards of a night that a run finished."""
    logs = (ShardLog(store, job, ds, work) for work in works_of_night(store, job, ds))
    manifests = (manifest for log in logs for manifest in log.manifests().values())
    return sum(manifest.tokens for manifest in manifests if manifest.run_id == run_id)
