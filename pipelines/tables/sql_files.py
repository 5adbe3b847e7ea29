"""The files of `sql/`."""

from pathlib import Path

from embedder.errors import UsageError

SQL_ROOT = Path(__file__).parents[2] / "sql"  # in a checkout and in an installed wheel alike


def query_text(name: str) -> str:
    """The text of `sql/<name>.sql`; raises UsageError if there is no such file."""
    path = SQL_ROOT / f"{name}.sql"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in SQL_ROOT.glob("*.sql")))
        raise UsageError(f"no query {name!r}: there are {there}")
    return path.read_text(encoding="utf8")


def statement_text(name: str) -> str:
    """The same without its header."""
    return "\n".join(line for line in query_text(name).splitlines() if not line.startswith("--"))
