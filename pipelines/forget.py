"""Forget a user: no file of the warehouse tells of them afterwards, and what comes of theirs again is refused.

    request ─▶ the rows out of every table ─▶ old versions, shards and leftovers deleted ─▶ every file searched
              (one commit a table)

Every step can be done twice, so after a kill the same command completes it. Other runs wait until it is done.
"""

import json
import shutil
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

from embedder.errors import InputMissing, PplugError, UsageError
from embedder.hashing import text_sha256
from llm_jobs.training import REPORT
from pipelines.erasure.forgotten import JOB, request_hash
from pipelines.erasure.person import Person, own_rows, read_rows, without
from pipelines.erasure.traces import LOG_FOLDER, NEEDED, find_person, find_traces
from pipelines.nights.runs import Excludes, recorded_run, utc_now
from pipelines.tables.parquet import night_of
from pipelines.tables.retention import READER_SECONDS, rewrite_log, vacuum
from pipelines.tables.schema import TABLES
from pipelines.tables.warehouse import Warehouse, write_shard

LEFTOVERS: Final = ("_staging", "_spill-*")
"""Unfinished files of commands that were killed."""


@dataclass(frozen=True)
class Found:
    """Where something of the user was."""

    place: str
    """A table, `other files` (old versions, shards, what killed runs left), or a plug that was trained with it."""
    row_count: int
    """Rows of a table that readers saw; those of other places are not counted."""
    file_count: int


def forget_user(
    warehouse: Warehouse,
    user_id: str,
    plugs: Sequence[Path] = (),
    *,
    dry_run: bool = False,
    reader_seconds: float = READER_SECONDS,
) -> list[Found]:
    """Remove a user from every file of the warehouse, and refuse their rows from now on.

    Args:
        warehouse: its tables, their old versions, their logs, shards and leftovers of killed runs.
        user_id: the id as it stands in the tables. Nothing in it is a pattern. If nobody has it, the request is kept.
        plugs: folders of plugs to look through; one that was trained with the user's data stays as it is.
        dry_run: only tell what is there.
        reader_seconds: time that queries get before the files they may read are deleted.

    Raises:
        UsageError: if the id is empty or no text.
        InputMissing: if a folder holds no trained plug.
        PplugError: if a job is running, or something of the user is left at the end.
    """
    check_user_id(user_id)
    trained = [Found(f"plug {folder}", 0, 1) for folder in plugs if is_trained_with(folder, user_id)]
    root = warehouse.root
    if dry_run:
        person = find_person(root, user_id)
        return [*found_rows(warehouse, person, find_traces(root, person)), *trained]
    with recorded_run(warehouse, JOB, utc_now().date(), {}, Excludes.ALL) as record:
        record.config = {"user_hmac_sha256": request_hash(warehouse, user_id)}
        person = find_person(root, user_id)
        telling = find_traces(root, person)
        found = found_rows(warehouse, person, telling)
        for name in TABLES:
            remove_rows(warehouse, name, person, set(telling), record.run_id)
        remove_leftovers(root, telling)
        vacuum(warehouse, TABLES, reader_seconds)
        for name in {path.parent.parent.name for path in telling if path.parent.name == LOG_FOLDER}:
            rewrite_log(warehouse, name)  # earlier versions of pplug wrote the range of user ids there
        if left := find_traces(root, person):
            names = ", ".join(str(path.relative_to(root)) for path in left[:3])
            raise PplugError(
                f"{len(left)} files still tell of the user: {names}: delete them and run the command again"
            )
        record.rows_in = record.rows_out = sum(place.row_count for place in found)
    return [*found, *trained]


def check_user_id(user_id: str) -> None:
    """Refuse what can be nobody's id."""
    try:
        user_id.encode("utf8")
    except UnicodeEncodeError as error:
        raise UsageError(f"the user id is no text ({error.reason}): check the encoding of your shell") from error
    if not user_id.strip():
        raise UsageError(f"the user id {user_id!r} is empty: name one user, `pplug forget USER_ID`")


def is_trained_with(folder: Path, user_id: str) -> bool:
    """Whether a plug was fitted to the user's history; beside it lie the hashes of those it was."""
    path = folder / REPORT
    if not path.is_file():
        raise InputMissing(f"{path} is not there, so nobody can tell whom the plug was trained with: check --plug")
    users = json.loads(path.read_text(encoding="utf8"))["user_id_sha256"]
    return text_sha256(user_id) in users


def found_rows(warehouse: Warehouse, person: Person, telling: Sequence[Path]) -> list[Found]:
    """What is there of the user, table by table, and in how many of the files that tell of them besides."""
    found, others = list[Found](), set(telling)
    for name in TABLES:
        live = others.intersection(warehouse.files(name))
        others -= live
        if live:
            count = sum(own_rows(read_rows(path, NEEDED), person).true_count for path in live)
            found.append(Found(name, count, len(live)))
    return [*found, Found("other files", 0, len(others))] if others else found


def remove_rows(warehouse: Warehouse, name: str, person: Person, telling: Container[Path], run_id: str) -> None:
    """Take the user's rows out of the newest version of a table, in one commit."""
    version = warehouse.version(name)
    files = [path for path in warehouse.files(name, version) if path in telling]
    if version is None or not files:
        return
    kept: list[tuple[date, Path]] = []
    with warehouse.staging(f"{run_id}-{name}") as folder:
        for number, path in enumerate(files):
            rest = folder / f"{number}.parquet"
            write_shard(rest, without(read_rows(path), person))
            kept.append((night_of(path), rest))
        warehouse.swap(name, run_id, files, kept, version)


def remove_leftovers(root: Path, telling: Sequence[Path]) -> None:
    """Delete what killed commands left, and finished shards that hold the user; their work is done again."""
    leftovers = [path for pattern in LEFTOVERS for path in root.glob(pattern)]
    shards = {path.parent for path in telling if root / "_shards" in path.parents}
    for folder in (*leftovers, *shards):
        shutil.rmtree(folder)
