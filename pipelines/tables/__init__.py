"""The warehouse: its schemas, the one writer of its tables, and DuckDB views of them."""

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
"""A row of a table or of a query, by the names of its columns."""
