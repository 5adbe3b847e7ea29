"""Rows of a few users out of large Parquet files of this machine: only the pages that hold them are read.

    ids ─▶ DataFusion looks through the column of ids ─▶ the index of pages ─▶ the pages of the other columns

DuckDB and pyarrow read whole row groups, and nearly each has one user of a hundred. A store of objects is read by row
groups all the same: a request for less than a megabyte takes as long.
"""

from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

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


def wanted(users: Collection[str]) -> Any:
    """A condition on `user_id`.

    The least and the greatest id look needless, but let DataFusion open the index, which it does not for a list of more
    than twenty.
    """
    from datafusion import col, functions, lit

    own, ids = col("user_id"), sorted(users)
    return (own >= lit(ids[0])) & (own <= lit(ids[-1])) & functions.in_list(own, [lit(one) for one in ids])


def rows_of_users(path: Path, schema: pa.Schema, condition: Any) -> pa.Table:
    """Read the rows that meet a condition.

    Args:
        path: of a file that `parquet_bytes` packed; any other is read whole.
        schema: of the file.
        condition: from `wanted`.

    Raises:
        OSError: if the file is not there, or cannot be read.
    """
    try:
        frame = _session().read_parquet(path.absolute().as_uri(), schema=schema)
        rows = frame.filter(condition).to_arrow_table()
    except Exception as error:  # DataFusion has no class of its own
        raise OSError(f"{path}: {str(error).partition(chr(10))[0]}") from error
    path.stat()  # to DataFusion no file is no rows
    return rows
