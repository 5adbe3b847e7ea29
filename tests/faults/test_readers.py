"""DuckDB reads while nights are published: every read is one whole night, and never an older one than before.

writer:  publication 0, 1, 2 ... each replaces the rows of `outputs` (a night) and of `histories` (a swap)
readers: count, sums and a checksum that only the rows of one publication have
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from night_jobs import KINDS
from victims import CONTEXT

from pipelines.ingest import ingest_histories
from pipelines.tables.parquet import write_shard
from pipelines.tables.schema import file_schema
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

NIGHT = date(2026, 11, 2)
READERS = 3
FILES = 3
ITEMS = 30

OUTPUTS = """
    select
        min(output)::int as publication,
        count(*) = 40 + min(output)::int % 7
        and count(distinct output) = 1
        and sum(prompt_tokens) = count(*) * (count(*) - 1) / 2
        and bool_and(output_tokens = (output::int * 31 + prompt_tokens) % 997) as is_whole
    from outputs"""
HISTORIES = f"""
    select
        min(text)::int as publication,
        count(*) = {ITEMS} and count(distinct item_id) = {ITEMS} and count(distinct text) = 1 as is_whole
    from histories"""


class Pace:
    """What the processes share: publications made, reads made, and whether it is over because one of them failed."""

    def __init__(self) -> None:
        self.published, self.read, self.is_over = CONTEXT.Value("q"), CONTEXT.Value("q"), CONTEXT.Event()

    def add_reads(self, count: int) -> None:
        """Count the reads of one process."""
        with self.read.get_lock():
            self.read.value += count


PACES: list[Pace] = []
"""The one of this process: what is shared can be handed over only when a process starts."""


def take_part(pace: Pace) -> None:
    """Begin a process."""
    PACES.append(pace)


def outputs_of(publication: int) -> pa.Table:
    """The rows of `outputs`: their number and their tokens tell which publication they are of."""
    row = dict.fromkeys(file_schema("outputs").names, "x") | {"score": 0.0, "persona_ds": None, "top_items": None}
    row |= {"output": f"{publication}", "is_shortened": False}
    rows = [
        row | {"task_id": f"t{at}", "prompt_tokens": at, "output_tokens": (publication * 31 + at) % 997}
        for at in range(40 + publication % 7)
    ]
    return pa.Table.from_pylist(rows, schema=file_schema("outputs"))


def publish(warehouse: Warehouse, publication: int) -> None:
    """Replace all rows of both tables."""
    item = {"user_id": "u", "kind": "note", "posted_at": "2026-11-01", "text": f"{publication}"}
    with warehouse.staging(f"publication-{publication}") as folder:
        rows, shards = outputs_of(publication), [folder / f"{at}.parquet" for at in range(FILES)]
        for at, shard in enumerate(shards):
            write_shard(shard, rows.take(list(range(at, rows.num_rows, FILES))))
        warehouse.publish("outputs", NIGHT, f"run{publication}", shards)
        items = pa.Table.from_pylist([item | {"item_id": f"{at}"} for at in range(ITEMS)])
        write_shard(folder / "items.parquet", items)
        ingest_histories(warehouse, [folder / "items.parquet"], NIGHT, KINDS)


def write_nights(root: Path, publications: int, reads: int) -> None:
    """Publish, one after the other, whenever the readers have done their share of the reads."""
    (pace,) = PACES
    for publication in range(1, publications):
        while pace.read.value < publication * reads // publications and not pace.is_over.wait(0.01):
            pass
        publish(Warehouse(root), publication)
        pace.published.value = publication


def through_views(root: Path) -> Iterator[tuple[str, int]]:
    """One connection, whose rows stay the same while others publish."""
    with connect(Warehouse(root)) as db:
        first = [checked(db.sql(query).fetchall()) for query in (OUTPUTS, HISTORIES)]
        again = [checked(db.sql(query).fetchall()) for query in (OUTPUTS, HISTORIES)]
    assert first == again
    yield from zip(("outputs", "histories") * 2, first + again, strict=True)


def through_files(root: Path) -> Iterator[tuple[str, int]]:
    """Without pplug, as the README shows it."""
    with duckdb.connect() as db:
        for table, query in (("outputs", OUTPUTS), ("histories", HISTORIES)):
            files = DeltaTable(root / table).file_uris()
            db.read_parquet(files, hive_partitioning=True).create_view(table)
            yield table, checked(db.sql(query).fetchall())


def checked(rows: Sequence[Sequence[Any]]) -> int:
    """The publication that was read."""
    ((publication, is_whole),) = rows
    assert is_whole, f"rows of several publications: {rows}"
    return publication


def read_nights(root: Path, publications: int, reads: int) -> set[int]:
    """Read until all is published and read; the publications that were seen in `outputs`."""
    (pace,) = PACES
    newest, seen = {"outputs": 0, "histories": 0}, set[int]()
    while not pace.is_over.is_set() and (pace.published.value < publications - 1 or pace.read.value < reads):
        for way in (through_views, through_files):
            found = list(way(root))
            pace.add_reads(len(found))
            for table, publication in found:
                assert publication >= newest[table], f"{table} went back from {newest[table]} to {publication}"
                newest[table] = publication
            seen |= {publication for table, publication in found if table == "outputs"}
    return seen


def test_every_read_during_publications_is_one_whole_night(tmp_path: Path, count: Callable[[int, int], int]) -> None:
    publications, reads = count(10, 50), count(500, 10_000)
    publish(Warehouse(tmp_path), 0)
    pace = Pace()
    with ProcessPoolExecutor(READERS + 1, mp_context=CONTEXT, initializer=take_part, initargs=(pace,)) as pool:
        futures: list[Future[Any]] = [pool.submit(write_nights, tmp_path, publications, reads)]
        futures += [pool.submit(read_nights, tmp_path, publications, reads) for _ in range(READERS)]
        try:
            results = [future.result() for future in as_completed(futures)]
        finally:
            pace.is_over.set()
    assert pace.read.value >= reads
    assert set().union(*(seen for seen in results if seen)) == set(range(publications))
