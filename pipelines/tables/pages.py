"""Rows of a few users out of large Parquet files of this machine: only the pages that hold them are read.

    ids ─▶ those that a file may hold, by its footer ─▶ DataFusion looks through the column of ids where one may be
        ─▶ the index of pages ─▶ the pages of the other columns

DuckDB and pyarrow read whole row groups, and nearly each has one user of a hundred. A store of objects is read by row
groups all the same: a request for less than a megabyte takes as long.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pipelines.tables.parquet import user_ranges

OPTIONS: Final = {
    "datafusion.execution.parquet.pushdown_filters": "true",
    "datafusion.execution.parquet.metadata_size_hint": "0",  # else half a megabyte of each file is read to begin with
    "datafusion.execution.parquet.schema_force_view_types": "false",
    "datafusion.execution.target_partitions": "1",
}


@cache
def _session() -> Any:
    from datafusion import SessionConfig, SessionContext  # .4 s, which small warehouses need not wait for

    return SessionContext(SessionConfig(OPTIONS))


@lru_cache(maxsize=4)
def _wanted(users: tuple[str, ...]) -> Any:
    """A condition on `user_id`.

    The least and the greatest id look needless, but let DataFusion open the index, which it does not for a list of more
    than twenty.
    """
    from datafusion import col, functions, lit

    own = col("user_id")
    return (own >= lit(users[0])) & (own <= lit(users[-1])) & functions.in_list(own, [lit(one) for one in users])


def users_within(path: Path, users: Sequence[str]) -> Sequence[str]:
    """Those of the users, in the order of their ids, whom a row group of a file may hold, by its footer.

    All of them where that is more than half: a list of its own would cost more than it saves.
    """
    with pa.OSFile(str(path)) as opened:
        ranges = user_ranges(opened, path.stat().st_size)
    if not ranges:
        return users
    spans = {(bisect_left(users, first), bisect_right(users, last)) for first, last in ranges}
    found = sorted({at for first, last in spans for at in range(first, last)})
    return users if len(found) > len(users) / 2 else [users[at] for at in found]


def rows_of_users(path: Path, schema: pa.Schema, users: Sequence[str]) -> pa.Table:
    """Read the rows of some users.

    Args:
        path: of a file that `parquet_bytes` packed; any other is read whole.
        schema: of the file.
        users: in the order of their ids.

    Raises:
        OSError: if the file is not there, or cannot be read.
    """
    try:
        if not (own := users_within(path, users)):
            return schema.empty_table()
        frame = _session().read_parquet(path.absolute().as_uri(), schema=schema)
        rows = frame.filter(_wanted(tuple(own))).to_arrow_table()
    except Exception as error:  # DataFusion has no class of its own
        raise OSError(f"{path}: {str(error).partition(chr(10))[0]}") from error
    path.stat()  # to DataFusion no file is no rows
    return rows.take(np.arange(rows.num_rows))  # a copy: one row would keep a batch's megabytes
