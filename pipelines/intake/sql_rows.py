"""Read the rows of a DuckDB query, as in --sql "select author as user_id, ... from 's3://bucket/articles.csv'"."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import duckdb

from embedder.errors import UsageError
from pipelines.intake.chunks import Chunk, ColumnNames
from pipelines.intake.parquet_files import chunks_of_batch
from pipelines.store.bucket import Bucket
from pipelines.store.stored import SCHEMES
from pipelines.tables.upsert import scratch

SQL: Final = "sql"  # what stands for the query in `rejects.source` and in row ids
BATCH_ROWS: Final = 2_048


def sql_chunks(query: str, columns: ColumnNames, folder: Path, options: Mapping[str, str]) -> Iterator[Chunk]:
    """Read the rows of a query.

    Args:
        query: may name files of this machine and of object stores.
        columns: the columns to read.
        folder: where what does not fit into memory goes.
        options: of the object store; its environment variables count besides.

    Raises:
        UsageError: if it is no query, or fails.
    """
    with scratch(folder) as db:
        for scheme in SCHEMES:
            if f"{scheme}://" in query:
                open_scheme(db, scheme, options)
        try:
            statements = db.extract_statements(query)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise UsageError("--sql takes one query that gives rows: select ... from 'file.csv'")
            rows = db.sql(query)
            names = rows.columns
            wanted = {ours: theirs for ours, theirs in columns.items() if theirs in names}
            number = 0
            for batch in rows.to_arrow_reader(BATCH_ROWS):
                yield from chunks_of_batch(SQL, batch, number, wanted, frozenset(names))
                number += batch.num_rows
        except duckdb.Error as error:
            said = [line for line in str(error).splitlines() if not line.startswith(("Traceback", " "))]
            raise UsageError(f"--sql failed: {said[0][:300]}") from error


def open_scheme(db: duckdb.DuckDBPyConnection, scheme: str, options: Mapping[str, str]) -> None:
    """Let DuckDB read URIs of that scheme through the client of warehouses: its own one is an extension to download."""
    from obstore.fsspec import FsspecStore

    opened = type("OpenedStore", (FsspecStore,), {"protocol": scheme})  # globs heed the protocol of the class alone
    db.register_filesystem(opened(**Bucket(f"{scheme}://", options).connection))
