"""Run the files of sql/ and any other question over the views of the published tables, read-only.

Every query is one pure `select` under a header that says what a row is and which `$params` it takes. The header is
read here: it is the help text, and it gives the parameters their types and defaults.
"""

import re
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from embedder.errors import PplugError, UsageError
from pipelines.tables.damage import damage_line
from pipelines.tables.schema import TABLES
from pipelines.tables.sql_files import SQL_ROOT
from pipelines.tables.statements import reading_text
from pipelines.tables.views import make_views, open_database, query_memory, quoted, run_sql
from pipelines.tables.warehouse import Warehouse

Value = str | int | date | None

TYPES: Final[Mapping[str, Callable[[str], Value]]] = {"TEXT": str, "INT": int, "DATE": date.fromisoformat}
"""How the text of a parameter becomes a value."""

RANGE_VECTORS: Final = 250_000
"""Of the users of a range, about: the vectors of all users at once do not fit into `QUERY_MEMORY`."""

_EXAMPLES: Final = {"TEXT": "TEXT", "INT": "10", "DATE": "2026-11-01"}
_HEADER: Final = ("Grain", "Reads", "Params", "Holds")
_HEADER_LINE: Final = re.compile(r"-- (?P<label>\w+): *(?P<text>\S.*)")
_PARAM: Final = re.compile(
    r"\$(?P<name>\w+) \((?P<type>\w+)(?:, default (?P<default>[^:)]+)(?:: (?P<meaning>[^)]+))?)?\)"
)


@dataclass(frozen=True)
class Param:
    """One `$name` of a query."""

    name: str
    type: str  # a key of `TYPES`
    default: str | None  # as text; None: the parameter has to be given. `null` is SQL's null
    meaning: str  # what the default stands for, where it does not say so itself


@dataclass(frozen=True)
class Query:
    """One file of sql/ or sql/checks/."""

    name: str
    row: str  # what a row is
    grain: str  # which columns are different in every row
    reads: tuple[str, ...]  # the tables
    params: tuple[Param, ...]
    holds: str  # what is true of every row; of a check, what is true of the tables when it has no rows
    sql: str


def list_queries() -> list[Query]:
    """Every query of sql/, by name."""
    return [read_query(path) for path in sorted(SQL_ROOT.glob("*.sql"))]


def list_checks() -> list[Query]:
    """Every check of sql/checks/, by name."""
    return [read_query(path) for path in sorted((SQL_ROOT / "checks").glob("*.sql"))]


def describe(name: str) -> Query:
    """The query of that name; raises UsageError, which says what there is, if there is none."""
    there = {query.name: query for query in list_queries()}
    if name in there:
        return there[name]
    near = get_close_matches(name, there, n=1)
    advice = f"did you mean `pplug query {near[0]}`?" if near else f"run `pplug query NAME` with {' or '.join(there)}"
    raise UsageError(f"there is no query {name!r}: {advice}")


def run_query(db: duckdb.DuckDBPyConnection, name: str, params: Mapping[str, str]) -> pa.Table:
    """Run a query of sql/ over the views of `db`, with parameters as the user typed them.

    Raises:
        UsageError: An unknown query; a parameter that is unknown, missing or not of its type.
    """
    query = describe(name)
    values, next_step = _typed_params(query, params), _command(query)
    ranges = _ranges(db, values)
    if len(ranges) < 2:
        return _run(db, query.sql, values, next_step)
    parts = [_run(db, query.sql, values | users, next_step) for users in ranges]
    db.from_arrow(pa.concat_tables(parts)).create_view("parts", replace=True)
    order = re.sub(r"\w+\.", "", query.sql[query.sql.rindex("order by ") :])  # the tables' names are gone
    in_order = f"from parts {order}"
    return _run(db, in_order, {name: value for name, value in values.items() if f"${name}" in in_order}, next_step)


def _ranges(db: duckdb.DuckDBPyConnection, values: Mapping[str, Value]) -> list[dict[str, str]]:
    """Ranges of users to run a query for, if it takes one and was given none; their rows are put in order again."""
    if "first_user" not in values or values["first_user"] or values["last_user"]:
        return []
    return run_sql(db, "jobs/user_ranges", {"most": RANGE_VECTORS}).to_pylist()


def run_checks(db: duckdb.DuckDBPyConnection, ds: date | None) -> dict[str, pa.Table]:
    """The rows of a night, or of all nights, that break each promise of the contract, by check; all empty is a pass."""
    return {check.name: _run(db, check.sql, {"ds": ds}, next_step="run `pplug check`") for check in list_checks()}


def run_statement(db: duckdb.DuckDBPyConnection, text: str) -> pa.Table:
    """Run one statement that only reads; which files it may read is up to `lock_down`.

    Raises:
        UsageError: It is not one statement, not one that reads, or DuckDB does not understand it.
        PplugError: It failed while it ran.
    """
    next_step = "run `pplug sql 'show tables'`"
    with _one_line_errors(next_step):
        statement = reading_text(db, text, next_step)
    return _run(db, statement, {}, next_step)


@contextmanager
def connect_locked(warehouse: Warehouse) -> Generator[duckdb.DuckDBPyConnection]:
    """A connection with a view of every table, which can read their live files and nothing else."""
    files = {name: warehouse.live(name) for name in TABLES}
    here = warehouse.store.folder  # what is in an object store does not come through DuckDB's own hands
    with tempfile.TemporaryDirectory(prefix="pplug-") as spill, open_database(spill) as db:
        make_views(db, warehouse, files)
        lock_down(db, [here / file.name for there in files.values() for file in there] if here else [])
        yield db


def lock_down(db: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> None:
    """Let `db` touch no file but these (and its own spill folder), no network and no setting, for good.

    Call it when the views are made. DuckDB may still write to the files, so `run_statement` refuses what writes.
    """
    paths = sorted({spelled for path in files for spelled in (str(path), quoted(path))})  # it asks for both
    db.execute("set allowed_paths = $paths", {"paths": paths})
    db.execute("set python_enable_replacements = false")  # a variable of ours is no table
    db.execute("set autoload_known_extensions = false")
    db.execute("set enable_external_access = false")
    db.execute("set lock_configuration = true")


def read_query(path: Path) -> Query:
    """Read a file and its header; a ValueError says what is wrong with the header."""
    lines = path.read_text(encoding="utf-8").splitlines()
    labels, header = (path.stem, *_HEADER), list(takewhile(lambda line: line.startswith("--"), lines))
    facts = re.sub(r"\n-- {3,}", " ", "\n".join(header)).splitlines()
    matches = [_HEADER_LINE.fullmatch(fact) for fact in facts]
    found = {match["label"]: match["text"] for match in matches if match}
    if tuple(found) != labels:
        raise ValueError(f"{path} begins with the lines {', '.join(found) or 'of no header'}, not {', '.join(labels)}")
    row, grain, reads, params, holds = found.values()
    return Query(
        name=path.stem,
        row=row,
        grain=grain,
        reads=tuple(reads.split(", ")),
        params=_parse_params(params, path),
        holds=holds,
        sql="\n".join(lines[len(header) :]),
    )


def _parse_params(text: str, path: Path) -> tuple[Param, ...]:
    if text == "none":
        return ()
    matches = list(_PARAM.finditer(text))
    if ", ".join(match[0] for match in matches) != text:
        raise ValueError(
            f"{path} has the parameters {text!r}, not $name (TYPE) or $name (TYPE, default VALUE: MEANING)"
        )
    params = tuple(Param(m["name"], m["type"], m["default"], m["meaning"] or "") for m in matches)
    if unknown := {param.type for param in params} - set(TYPES):
        raise ValueError(f"{path} has a parameter of type {', '.join(unknown)}, not {', '.join(TYPES)}")
    return params


def _typed_params(query: Query, given: Mapping[str, str]) -> dict[str, Value]:
    known = {param.name: param for param in query.params}
    if unknown := [name for name in given if name not in known]:
        takes = ", ".join(known) or "none"
        raise UsageError(f"{query.name} has no parameter {unknown[0]!r}, it takes {takes}: {_command(query)}")
    values: dict[str, Value] = {}
    for name, param in known.items():
        text = given.get(name, param.default)
        if text is None:
            raise UsageError(f"{query.name} needs {name} ({param.type}): {_command(query)}")
        try:
            values[name] = None if name not in given and text == "null" else TYPES[param.type](text)
        except ValueError:
            example = _EXAMPLES[param.type]
            raise UsageError(f"{name}={text!r} is no {param.type}: write it like -p {name}={example}") from None
    return values


def _command(query: Query) -> str:
    """The shortest command that runs it."""
    required = (f" -p {param.name}={_EXAMPLES[param.type]}" for param in query.params if param.default is None)
    return f"run `pplug query {query.name}{''.join(required)}`"


def _run(db: duckdb.DuckDBPyConnection, sql: str, params: Mapping[str, Value], next_step: str) -> pa.Table:
    with _one_line_errors(next_step):
        return db.sql(sql, params=dict(params)).to_arrow_table()


@contextmanager
def _one_line_errors(next_step: str) -> Generator[None]:
    """What DuckDB says, without the lines that draw where it stopped."""
    try:
        yield
    except duckdb.Error as error:
        if line := damage_line(error):
            raise PplugError(line) from error
        if isinstance(error, duckdb.OutOfMemoryException):
            raise PplugError(
                f"it needs more than {query_memory()} of memory: give it more with --query-memory 4G"
            ) from error
        said = " ".join(str(error).partition("\n\nLINE ")[0].split()).rstrip(".!")
        is_usage = isinstance(error, duckdb.ProgrammingError | duckdb.DataError | duckdb.PermissionException)
        raise (UsageError if is_usage else PplugError)(f"{said}: {next_step}") from error
