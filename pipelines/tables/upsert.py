"""Bring rows into a table by key, in one transaction that touches as little as it can.

    staged rows ─▶ keys, hashes ─▶ one row a key ─┬─▶ the rows that differ, in the order of users ───────┐
    live files ──▶ keys, hashes ──────────────────┘      └▶ the files with their old rows, without them ─┴─▶ one commit

DuckDB sees keys and hashes only; whole rows go from file to file in batches of bounded bytes. Delta's own merge holds
the whole table in memory (0.5 GB per million rows of 400 letters, deltalake 1.6.6). New files are ordered by user, so
that a change of one user rewrites few of them.

Of the rows of a key a deletion wins, then the last one. What a later night wrote or deleted stays: `deletions`
remembers the night in which an item was deleted last.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.tables.data_files import DataFile
from pipelines.tables.parquet import ROW_GROUP_ROWS, rows_within, write_batches
from pipelines.tables.schema import KEYS, MADE, file_schema
from pipelines.tables.views import open_database, quoted
from pipelines.tables.warehouse import Staged, Warehouse

MEMORY_LIMIT: Final = "512MB"
PART_BYTES: Final = 64 * 2**20  # rows that are sorted at once
GROUP_BYTES: Final = 16 * 2**20  # of a row group, which readers hold whole
DELETIONS: Final = {"histories": "deletions"}  # where a table's deletions are remembered
_DELETED_RANK: Final = 2**62  # added to the place of a row that deletes, which so comes last


def scratch(folder: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB that sorts and joins what does not fit into memory in a folder."""
    return open_database(folder / "duckdb", MEMORY_LIMIT).execute("set preserve_insertion_order = false")


def upsert(
    warehouse: Warehouse,
    name: str,
    ds: date,
    run_id: str,
    staged: Path,
    *,
    overwrite_newer: bool = False,
    dry_run: bool = False,
) -> dict[str, int]:
    """Apply what differs from the table: new and changed rows move to the night `ds`, equal ones stay in theirs.

    `staged` is a Parquet file with the columns of the table's files and a BOOL `deleted`, its rows in the order in
    which they came; unfinished files are written beside it. What a later night wrote or deleted is replaced with
    `overwrite_newer` alone; with `dry_run` all is only counted.

    Returns:
        How many keys are new or have a new row (`changed`), are `deleted`, were there already (`unchanged`), or were
        written or deleted by a later night (`left_alone`).

    Raises:
        CommitConflict: if the table was changed meanwhile; nothing is written, or deletions alone, found again later.
    """
    memory = DELETIONS.get(name)
    names, folder = [name, memory] if memory else [name], staged.parent
    if not dry_run:
        for table in names:
            warehouse.create(table)
    versions = warehouse.versions(names)
    with scratch(folder) as db:
        live = {table: warehouse.copied_files(table, version, folder) for table, version in versions.items()}
        _choose_rows(db, name, staged)
        counts = _decide(db, name, ds, live, overwrite_newer=overwrite_newer)
        if memory and not dry_run:
            changes = _swapped(db, memory, ds, "noted", live[memory], _noted_deletions(db, memory, ds), folder)
            warehouse.swap(memory, run_id, *changes, versions[memory])
        if (counts.get("changed") or counts.get("deleted")) and not dry_run:
            changes = _swapped(db, name, ds, "replaced", live[name], _sorted_rows(db, name, staged), folder)
            warehouse.swap(name, run_id, *changes, versions[name])
    return counts


def _own_keys(name: str) -> list[str]:
    return [key for key in KEYS[name] if key != "ds"]


def _content(name: str) -> list[str]:
    return [column for column in file_schema(name).names if column not in (*_own_keys(name), *MADE)]


def _size(name: str) -> str:
    texts = [field.name for field in file_schema(name) if pa.types.is_string(field.type)]
    return " + ".join(f"coalesce(strlen({column}), 0)" for column in texts) + " + 64"


def _choose_rows(db: duckdb.DuckDBPyConnection, name: str, staged: Path) -> None:
    """Make `chosen`: of each key the row that counts, with its place among the staged rows."""
    keys = ", ".join(_own_keys(name))
    rows = f"read_parquet({_literal(quoted(staged))}, file_row_number = true, hive_partitioning = false)"
    db.execute(f"""
        create temp table chosen as
        with last as (
            select {keys}, max(file_row_number + case when deleted then {_DELETED_RANK} else 0 end) as place
            from {rows}
            group by all
        ),
        contents as (
            select file_row_number as place, user_id as owner, hash({", ".join(_content(name))}) as content,
                {_size(name)} as size
            from {rows}
        )
        select last.* exclude (place), last.place >= {_DELETED_RANK} as deleted, contents.*
        from last
        inner join contents on contents.place = last.place % {_DELETED_RANK}""")


def _list_live_rows(
    db: duckdb.DuckDBPyConnection, name: str, ds: date, files: Mapping[Path, DataFile], view: str = "there"
) -> None:
    """Make a view of keys, hashes, nights and places of the live rows. Nights come from Delta's own folders alone."""
    wanted = {str(path): file for path, file in files.items() if "ds" not in KEYS[name] or file.ds == ds}
    keys, content = ", ".join(_own_keys(name)), ", ".join(_content(name)) or "1"
    nights = pa.array([file.ds for file in wanted.values()], pa.date32())
    db.register(f"{view}_nights", pa.table({"filename": pa.array(wanted, pa.string()), "ds": nights}))
    if not wanted:
        columns = ", ".join(f"null::varchar as {key}" for key in _own_keys(name))
        empty = "null::ubigint as content, null::varchar as filename, null::bigint as place, null::date as ds"
        db.execute(f"create temp view {view} as select {columns}, {empty} limit 0")
        return
    paths = ", ".join(_literal(quoted(Path(path))) for path in wanted)
    db.execute(f"""
        create temp view {view} as
        select {keys}, hash({content}) as content, filename, file_row_number as place, ds
        from read_parquet([{paths}], file_row_number = true, filename = true, hive_partitioning = false)
        inner join {view}_nights using (filename)""")


def _decide(
    db: duckdb.DuckDBPyConnection,
    name: str,
    ds: date,
    live: Mapping[str, Mapping[Path, DataFile]],
    *,
    overwrite_newer: bool,
) -> dict[str, int]:
    """Make `fates`: what becomes of each chosen row, and where the row is that it replaces; count them by fate.

    `replaced` are those that are written or deleted.
    """
    memory = DELETIONS.get(name, "")
    _list_live_rows(db, name, ds, live.get(name, {}))
    _list_live_rows(db, memory or name, ds, live.get(memory, {}), view="gone")
    keys = ", ".join(_own_keys(name))
    db.execute(
        f"""
        create temp table fates as
        select
            chosen.*,
            there.filename as old_file,
            there.place as old_place,
            case
                when chosen.deleted and there.filename is null then 'unchanged'
                when not chosen.deleted and there.content = chosen.content then 'unchanged'
                when not $overwrite and (coalesce(there.ds > $ds, false) or coalesce(gone.ds > $ds, false))
                    then 'left_alone'
                when chosen.deleted then 'deleted'
                else 'changed'
            end as fate
        from chosen
        left join there using ({keys})
        left join gone using ({keys})""",
        {"ds": ds, "overwrite": overwrite_newer},
    )
    db.execute("create temp view replaced as select * from fates where fate in ('changed', 'deleted')")
    return dict(db.sql("select fate, count(*) from fates group by fate").fetchall())


def _noted_deletions(db: duckdb.DuckDBPyConnection, name: str, ds: date) -> Iterable[pa.RecordBatch]:
    """Make `noted`: the deletions of which no night, or only an earlier one, is known; their rows."""
    keys = ", ".join(_own_keys(name))
    db.execute(
        f"""
        create temp table noted as
        select {keys}, gone.filename as old_file, gone.place as old_place
        from fates
        left join gone using ({keys})
        where deleted and fate <> 'left_alone' and coalesce(gone.ds < $ds, true)""",
        {"ds": ds},
    )
    return _batches(db.sql(f"select {keys} from noted order by user_id"))


def _batches(rows: duckdb.DuckDBPyRelation) -> Iterator[pa.RecordBatch]:
    """Run a query when its first rows are wanted: no other may run while it is read."""
    yield from rows.to_arrow_reader(ROW_GROUP_ROWS)


def _swapped(
    db: duckdb.DuckDBPyConnection,
    name: str,
    ds: date,
    replaced: str,
    live: Mapping[Path, DataFile],
    batches: Iterable[pa.RecordBatch],
    folder: Path,
) -> tuple[list[DataFile], list[Staged]]:
    """Write new rows into files, and live files anew without the rows that are replaced; the old and the new files."""
    rows = db.sql(f"select old_file, old_place from {replaced} where old_file is not null").to_arrow_table()
    files: NDArray[Any] = np.asarray(rows["old_file"].to_pylist(), object)
    places = {Path(file): rows["old_place"].to_numpy()[files == file] for file in dict.fromkeys(files.tolist())}
    new = [Staged(ds, path) for path in write_batches(folder / f"{name}.new", file_schema(name), batches)]
    for file, gone in places.items():
        rest = write_batches(folder / f"{name}.{file.stem}", file_schema(name), _without(file, gone))
        new += [Staged(live[file].ds, path, live[file].born) for path in rest]
    return [live[file] for file in places], new


def _without(file: Path, places: NDArray[Any]) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in bounded_batches(file):
        keep = np.ones(batch.num_rows, bool)
        own = places[(places >= start) & (places < start + batch.num_rows)]
        keep[own - start] = False
        start += batch.num_rows
        yield batch.filter(pa.array(keep))


def _sorted_rows(db: duckdb.DuckDBPyConnection, name: str, staged: Path) -> Iterator[pa.RecordBatch]:
    """The changed rows in the order of users: dealt into parts that fit into memory, then part by part."""
    row_count = pq.read_metadata(staged).num_rows
    parts, edits = np.full(row_count, -1, np.int32), np.zeros(row_count, bool)
    # users are put in order, not rows: rows without number do not fit, neither in an order nor in a window's sums
    db.execute("""
        create temp table owners as
        select owner, sum(size)::bigint as bytes, sum(bytes) over (order by owner)::bigint - bytes as begun
        from replaced
        where fate = 'changed'
        group by owner""")
    rows = db.sql(f"""
        select place, old_file is not null as is_edit, (begun + bytes * (place % 1024) // 1024) // {PART_BYTES} as part
        from replaced
        inner join owners using (owner)
        where fate = 'changed'""")
    for batch in rows.to_arrow_reader(ROW_GROUP_ROWS):
        places = batch["place"].to_numpy()
        parts[places], edits[places] = batch["part"].to_numpy(), batch["is_edit"].to_numpy(zero_copy_only=False)
    files = _deal(parts, edits, file_schema(name), staged)
    for part in sorted(files):
        with pa.memory_map(str(files[part])) as source, pa.ipc.open_stream(source) as rows:
            table = rows.read_all().sort_by("user_id")
        rows_each = int(max(1, min(ROW_GROUP_ROWS, GROUP_BYTES * table.num_rows // max(1, table.nbytes))))
        yield from table.combine_chunks().to_batches(rows_each)


def _deal(parts: NDArray[Any], edits: NDArray[Any], schema: pa.Schema, staged: Path) -> dict[int, Path]:
    """Write each staged row to the file of its part, -1 is none, and whether it took the place of another."""
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    start = 0
    try:
        for batch in bounded_batches(staged):
            own = parts[start : start + batch.num_rows]
            if "is_edit" in schema.names:
                batch = batch.append_column("is_edit", pa.array(edits[start : start + batch.num_rows]))
            start += batch.num_rows
            for part in np.unique(own[own >= 0]).tolist():
                if part not in writers:
                    writers[part] = pa.ipc.new_stream(str(staged.with_suffix(f".{part}.arrow")), schema)
                rows = batch.filter(pa.array(own == part)).select(schema.names)
                writers[part].write_batch(rows.cast(schema))
    finally:
        for writer in writers.values():
            writer.close()
    return {part: staged.with_suffix(f".{part}.arrow") for part in writers}


def bounded_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a file in their order, in batches of about GROUP_BYTES."""
    with pq.ParquetFile(file) as parquet:
        yield from parquet.iter_batches(rows_within(parquet.metadata, GROUP_BYTES))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
