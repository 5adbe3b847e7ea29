"""Parquet as the tables hold it: ordered, packed, and described for Delta's log."""

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.store.folder import Folder, named_causes

VECTOR_LEAVES: Final = {"persona": "persona.list.element", "vector_scales": "vector_scales.list.element"}
"""Parquet's names of the numbers in a column of float vectors, which are split by byte."""

CODE_LEAVES: Final = {"vector": "vector.list.element", "vectors": "vectors.list.element.list.element"}
"""The same of 8-bit vectors, which a dictionary packs: 361 bytes for 384 numbers, 536 without (MiniLM, zstd)."""

ROW_GROUP_ROWS: Final = 16_384
ROW_GROUP_BYTES: Final = 2**20
"""Of a row group of what jobs write: whoever asks for a user reads the whole group."""
PAGE_BYTES: Final = 4_096
"""Of a column in a file with vectors: who asks for few users reads their pages alone (pages.py)."""
PAGE_ROWS: Final = 64
"""Rows, or numbers of a vector, after which it is looked whether a page is full."""
FOOTER_BYTES: Final = 2**14
"""Read of the end of a file to begin with: a footer is 11 KB, pyarrow would read 64."""
FILE_ROWS: Final = 256 * 1024
"""Of files that may be rewritten when one of their rows changes."""
FILE_BYTES: Final = 256 * 2**20
"""The same in memory."""


def parquet_bytes(table: pa.Table) -> bytes:
    """Pack rows into a Parquet file.

    Rows are ordered by `user_id`, rows of a user keep their order, and row groups are small, so that a join reads only
    the users it asks for.
    """
    file = io.BytesIO()
    _write(by_user(table) if "user_id" in table.column_names else table, file)
    return file.getvalue()


def write_packed(stem: Path, schema: pa.Schema, tables: Iterable[pa.Table], most_bytes: int) -> Iterator[Path]:
    """Write tables, one after the other, into files of about so many bytes: `<stem>-0.parquet` and so on.

    Yields:
        Each file when it is finished; none without rows.
    """
    left = _filling_groups(table.cast(schema) for table in tables if table.num_rows)
    first = next(left, None)
    for number in itertools.count():
        if first is None:
            return
        path = stem.with_name(f"{stem.name}-{number}.parquet")
        with named_causes(path), pq.ParquetWriter(path, schema, **_packing(schema.names)) as file:
            while first is not None and (not path.exists() or path.stat().st_size < most_bytes):
                file.write_table(first, _group_rows(first))
                first = next(left, None)
        yield path


def _filling_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join tables until they fill a row group: DuckDB reads over gaps, and so all vectors between the other columns."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        joined = pa.concat_tables(waiting)
        if joined.num_rows >= _group_rows(joined):
            yield joined
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _write(table: pa.Table, file: io.BytesIO) -> None:
    pq.write_table(table, file, row_group_size=_group_rows(table), **_packing(table.column_names))


def _packing(names: Sequence[str]) -> dict[str, Any]:
    """How the columns of these names are packed."""
    packed = [CODE_LEAVES.get(name, name) for name in names if name not in VECTOR_LEAVES and name != "item_sha256"]
    split = {VECTOR_LEAVES[name]: "BYTE_STREAM_SPLIT" for name in names if name in VECTOR_LEAVES}
    form: dict[str, Any] = {"compression": "zstd", "use_dictionary": packed, "column_encoding": split}
    if not CODE_LEAVES.keys() & {*names}:
        return form
    paged = {"data_page_size": PAGE_BYTES, "write_batch_size": PAGE_ROWS, "write_page_index": True}
    return form | paged | {"write_statistics": ["user_id"]}  # of other columns they would only make the index larger


def _group_rows(table: pa.Table) -> int:
    return max(256, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES * table.num_rows // max(1, table.nbytes)))


def user_ranges(file: Any, size: int) -> list[tuple[str, str]]:
    """The least and the greatest user id of each row group of an open file; empty if the footer does not say.

    Raises:
        OSError, ArrowInvalid: if the footer cannot be read.
    """
    end = file.read_at(FOOTER_BYTES, max(size - FOOTER_BYTES, 0))
    is_whole = len(end) >= int.from_bytes(end[-8:-4], "little") + 8
    footer = pq.read_metadata(pa.BufferReader(end) if is_whole else file)
    at = footer.schema.names.index("user_id")
    stats = [footer.row_group(group).column(at).statistics for group in range(footer.num_row_groups)]
    if not all(each is not None and each.has_min_max for each in stats):
        return []
    return [(each.min, each.max) for each in stats]


def rows_within(meta: pq.FileMetaData, most_bytes: int) -> int:
    """How many rows to read at once, so that they hold about so many bytes in the row group with the largest rows."""
    groups = [meta.row_group(number) for number in range(meta.num_row_groups)]
    most = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return int(max(1, min(ROW_GROUP_ROWS, most_bytes / max(1, most))))


def write_shard(path: Path, table: pa.Table) -> None:
    """Write a Parquet file that appears whole or not at all."""
    Folder(path.parent).put(path.name, parquet_bytes(table))


def by_user(table: pa.Table) -> pa.Table:
    """Order rows by `user_id`; a table that is in order stays as it is, for sorting copies every vector."""
    users = table["user_id"]
    return table if users.equals(users.sort()) else table.sort_by("user_id")


def write_batches(stem: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[Path]:
    """Write batches, a row group each, into files of about FILE_ROWS rows or FILE_BYTES: `<stem>-0.parquet` and so on.

    Yields:
        Each file when it is finished; none without rows.
    """
    left = iter(batches)
    for number in itertools.count():
        path, rows, size = stem.with_name(f"{stem.name}-{number}.parquet"), 0, 0
        path.unlink(missing_ok=True)  # never write into it: a published file may be the same one under another name
        with named_causes(path), pq.ParquetWriter(path, schema, compression="zstd") as file:
            for batch in left:
                file.write_batch(batch.cast(schema))
                rows, size = rows + batch.num_rows, size + batch.nbytes
                if rows >= FILE_ROWS or size >= FILE_BYTES:
                    break
        if not rows:
            path.unlink()
            return
        yield path
