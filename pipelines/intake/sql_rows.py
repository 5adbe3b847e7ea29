"""Read the rows of a DuckDB query, as in --sql "select author as user_id, ... from 'articles.csv'"."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import duckdb

from embedder.errors import UsageError
from pipelines.intake.chunks import Chunk, ColumnNames
from pipelines.intake.parquet_files import pieces
from pipelines.tables.upsert import scratch

SQL: Final = "sql"
"""What stands for the query in `rejects.source` and in row ids."""
BATCH_ROWS: Final = 2_048


def sql_chunks(query: str, columns: ColumnNames, folder: Path) -> Iterator[Chunk]:
    """Read the rows of a query.

    Args:
        query: may name files of this machine.
        columns: the columns to read.
        folder: where what does not fit into memory goes.

    Raises:
        UsageError: if it is no query, or fails.
    """
    with scratch(folder) as db:
        try:
            statements = db.extract_statements(query)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise UsageError("--sql takes one query that gives rows: select ... from 'file.csv'")
            rows = db.sql(query)
            names = rows.columns
            wanted = {ours: theirs for ours, theirs in columns.items() if theirs in names}
            number = 0
            for batch in rows.to_arrow_reader(BATCH_ROWS):
                yield from pieces(SQL, batch, number, wanted, frozenset(names))
                number += batch.num_rows
        except duckdb.Error as error:
            raise UsageError(f"--sql failed: {str(error).splitlines()[0]}") from error
