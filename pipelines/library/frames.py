"""DataFrames of pandas and Polars and tables of Arrow: taken as Arrow, given back as what they were.

Narwhals knows the libraries that are installed, and imports none that is not.
"""

import warnings
from typing import Any, TypeVar

import narwhals as nw
import pyarrow as pa
from narwhals.exceptions import NarwhalsError

from embedder.errors import UsageError

Frame = TypeVar("Frame")  # A DataFrame of pandas or Polars, or a table of Arrow


def as_arrow(frame: Any, what: str) -> pa.Table:
    """The columns of a frame as Arrow; a lazy frame, or a relation of DuckDB, is computed.

    Args:
        frame: whatever Narwhals knows.
        what: how the frame is called in an error.

    Raises:
        UsageError: if it is no frame, or has two columns of one name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # pyarrow 25 asks pandas 3.1 for what pandas 4 will change
            return _eager(frame).to_arrow()
    except TypeError as error:
        kind = type(frame).__name__
        told = f"{what} must be a DataFrame of pandas or Polars, or a table of Arrow, not a {kind}"
        raise UsageError(f"{told}: pandas.DataFrame(...) makes one of most things") from error
    except (NarwhalsError, pa.ArrowException, ValueError) as error:
        raise UsageError(f"{what} cannot be read ({str(error).partition(chr(10))[0]}): mend its columns") from error


def like(frame: Frame, rows: pa.Table) -> Frame:
    """Rows as a frame of the library that `frame` is of; Arrow where that is DuckDB."""
    made: Any = nw.from_arrow(rows, backend=_eager(frame).implementation)
    return made.to_native()


def _eager(frame: Any) -> nw.DataFrame[Any]:
    found = nw.from_native(frame)
    return found.collect() if isinstance(found, nw.LazyFrame) else found
