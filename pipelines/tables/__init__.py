"""The warehouse: its schemas, the one writer of its tables, and DuckDB views of them."""
