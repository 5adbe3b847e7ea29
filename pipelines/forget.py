"""Forget a user: no file of the warehouse tells of them afterwards, and what comes of theirs again is refused.

    request ─▶ the rows out of every table ─▶ old versions, shards and leftovers deleted ─▶ every file searched
              (one commit a table)

Every step can be done twice, so after a kill the same command completes it. Other runs wait until it is done.
"""

import json
import shutil
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedder.errors import InputMissing, PplugError, UsageError
from llm_jobs.training import REPORT
from pipelines.erasure.person import Person, own_rows, read_rows, without
from pipelines.erasure.traces import LOG_FOLDER, NEEDED, find_traces
from pipelines.erasure.user_key import JOB, HashedUsers, read_key, request_of
from pipelines.nights.runs import Excludes, recorded_run, utc_now
from pipelines.nights.shards import SHARDS
from pipelines.tables.parquet import write_shard
from pipelines.tables.retention import READER_SECONDS, rewrite_log, vacuum
from pipelines.tables.schema import TABLES
from pipelines.tables.warehouse import Staged, Warehouse

LEFTOVERS = ("_staging", "_spill-*")  # unfinished files of commands that were killed


@dataclass(frozen=True)
class FoundPlace:
    """Where something of the user was."""

    place: str
    """A table, `other files` (old versions, shards, what killed runs left), or a plug that was trained with it."""
    row_count: int  # rows of a table that readers saw; those of other places are not counted
    file_count: int


def forget_user(
    warehouse: Warehouse,
    user_id: str,
    plugs: Sequence[Path] = (),
    *,
    dry_run: bool = False,
    reader_seconds: float = READER_SECONDS,
) -> list[FoundPlace]:
    """Remove a user from every file of the warehouse, and refuse their rows from now on.

    The id is taken as it stands in the tables: nothing in it is a pattern. If nobody has it, the request is kept. A
    plug that was trained with the user's data is named, and stays as it is. With `dry_run` it is only told what is
    there. Queries get `reader_seconds` before the files that they may read are deleted.

    Raises:
        UsageError: if the id is empty or no text.
        InputMissing: if a folder of `plugs` holds no trained plug.
        PplugError: if a job is running, or something of the user is left at the end.
    """
    check_user_id(user_id)
    person = Person(user_id)
    trained = [FoundPlace(f"plug {folder}", 0, 1) for folder in plugs if user_id in training_users(warehouse, folder)]
    if dry_run:
        with warehouse.copied() as root:
            return [*found_rows(warehouse, root, person, find_traces(root, person)), *trained]
    with recorded_run(warehouse, JOB, utc_now().date(), {}, Excludes.ALL) as record:
        record.config = request_of(warehouse, user_id)
        found = remove_person(warehouse, person, record.run_id, reader_seconds)
        require_gone(warehouse, person)
        record.rows_in = record.rows_out = sum(place.row_count for place in found)
    return [*found, *trained]


def remove_person(warehouse: Warehouse, person: Person, run_id: str, reader_seconds: float) -> list[FoundPlace]:
    """Remove a user from tables, old versions, shards and leftovers; returns what was there."""
    with warehouse.copied() as root:
        telling = find_traces(root, person)
        found = found_rows(warehouse, root, person, telling)
        for name in TABLES:
            remove_rows(warehouse, root, name, person, set(telling), run_id)
        remove_leftovers(warehouse, root, telling)
    vacuum(warehouse, TABLES, reader_seconds)
    for name in {path.parent.parent.name for path in telling if path.parent.name == LOG_FOLDER}:
        rewrite_log(warehouse, name)  # earlier versions of pplug wrote the range of user ids there
    return found


def require_gone(warehouse: Warehouse, person: Person) -> None:
    """Search every file once more; raises PplugError if one still tells of the user."""
    with warehouse.copied() as root:
        left = [str(path.relative_to(root)) for path in find_traces(root, person)]
    if left:
        told = f"{len(left)} files still tell of the user: {', '.join(left[:3])}"
        raise PplugError(f"{told}: delete them and run the command again")


def check_user_id(user_id: str) -> None:
    """Refuse what can be nobody's id."""
    try:
        user_id.encode("utf8")
    except UnicodeEncodeError as error:
        raise UsageError(f"the user id is no text ({error.reason}): check the encoding of your shell") from error
    if not user_id.strip():
        raise UsageError(f"the user id {user_id!r} is empty: name one user, `pplug forget USER_ID`")


def training_users(warehouse: Warehouse, folder: Path) -> HashedUsers:
    """The users whose histories a plug was fitted to; beside it lie their hashes.

    Raises:
        InputMissing: if there are none, or they were not made with the key of this warehouse.
    """
    path, key = folder / REPORT, read_key(warehouse)
    if not path.is_file():
        raise InputMissing(f"{path} is not there, so nobody can tell whom the plug was trained with: check --plug")
    try:
        report = json.loads(path.read_bytes())
        users, key_check = report["user_hmac_sha256"], report["key_check"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputMissing(
            f"{path} does not tell whom the plug was trained with: run `pplug train --plug {folder}`"
        ) from error
    if key is None or key.check != key_check:
        raise InputMissing(
            f"{path} was written with the key of another warehouse, so nobody can tell whom the plug was trained "
            "with: name that --warehouse"
        )
    return HashedUsers(key, frozenset(users))


def found_rows(warehouse: Warehouse, root: Path, person: Person, telling: Sequence[Path]) -> list[FoundPlace]:
    """What is there of the user, table by table, and in how many of the files that tell of them besides."""
    found, others = list[FoundPlace](), set(telling)
    for name in TABLES:
        live = others.intersection(root / file.name for file in warehouse.live(name))
        others -= live
        if live:
            count = sum(own_rows(read_rows(path, NEEDED), person).true_count for path in live)
            found.append(FoundPlace(name, count, len(live)))
    return [*found, FoundPlace("other files", 0, len(others))] if others else found


def remove_rows(
    warehouse: Warehouse, root: Path, name: str, person: Person, telling: Container[Path], run_id: str
) -> None:
    """Take the user's rows out of the newest version of a table, in one commit."""
    version = warehouse.version(name)
    files = [file for file in warehouse.live(name, version) if root / file.name in telling]
    if version is None or not files:
        return
    kept = list[Staged]()
    with warehouse.staging(f"{run_id}-{name}") as folder:
        for number, file in enumerate(files):
            rest = folder / f"{number}.parquet"
            write_shard(rest, without(read_rows(root / file.name), person))
            kept.append(Staged(file.ds, rest, file.born))
        warehouse.swap(name, run_id, files, kept, version)


def remove_leftovers(warehouse: Warehouse, root: Path, telling: Sequence[Path]) -> None:
    """Delete what killed commands left, and what is left of work that holds the user; it is done again."""
    works = [path for path in telling if root / SHARDS in path.parents]
    if warehouse.store.folder is None:
        warehouse.store.delete(path.relative_to(root).as_posix() for path in works)
        return
    leftovers = [path for pattern in LEFTOVERS for path in root.glob(pattern)]
    for folder in (*leftovers, *{path.parent for path in works}):
        if folder.is_symlink():  # its place stays as it was chosen
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            shutil.rmtree(folder)
