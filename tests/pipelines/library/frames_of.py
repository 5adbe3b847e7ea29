"""Rows as frames of each library that is taken."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa

FRAMES: Mapping[str, Callable[[list[dict[str, Any]]], Any]] = {
    "pandas": pd.DataFrame,
    "polars": lambda rows: pl.DataFrame(rows, infer_schema_length=None),
    "arrow": pa.Table.from_pylist,
}


def rows_of(frame: Any) -> list[dict[str, Any]]:
    """The rows of any of them."""
    if isinstance(frame, pd.DataFrame):
        frame = pa.Table.from_pandas(frame, preserve_index=False)
    table = frame.to_arrow() if isinstance(frame, pl.DataFrame) else frame
    return table.to_pylist()
