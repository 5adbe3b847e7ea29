"""Tell from the tree that DuckDB parses whether a statement only reads.

    text ─▶ DuckDB's parser ─▶ every node is one that reads: run it
                                      └─ any other: refuse it, and name it

The type of a statement tells too little: a `with` may hold a `copy`, and the whole is a `select` all the same.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import duckdb

from embedder.errors import UsageError


def _names(spelled: str) -> frozenset[str]:
    return frozenset(spelled.split())


_READING_NODES: Final = _names(
    "SELECT_NODE SET_OPERATION_NODE RECURSIVE_CTE_NODE CTE_NODE"
    " BASE_TABLE EMPTY EXPRESSION_LIST JOIN PIVOT SHOW_REF SUBQUERY TABLE_FUNCTION"
    " DISTINCT_MODIFIER LIMIT_MODIFIER LIMIT_PERCENT_MODIFIER ORDER_MODIFIER ASCENDING DESCENDING ORDER_DEFAULT"
)
"""Types of the nodes that are no expression."""

_TABLE_FUNCTIONS: Final = _names(
    "range generate_series unnest repeat repeat_row json_each json_tree regexp_split_to_table"
    " personas_at personas_between changed_personas_at changed_between"
    " duckdb_columns duckdb_functions duckdb_keywords duckdb_schemas duckdb_tables duckdb_types duckdb_views"
    " pragma_show pragma_table_info pragma_version"
)
"""Those that open no file, run no text and change no setting."""

_CHANGING_FUNCTIONS: Final = _names("getenv getvariable nextval setval write_log")
"""Functions of values that do more than compute, or tell of the process."""

_EXPLAIN: Final = re.compile(r"\s*explain\s+(?P<analyze>analyze\s+)?", re.IGNORECASE)
_WORD: Final = re.compile(r"\w+")
_WRITING_WORDS: Final = _names("copy insert update delete merge create alter drop attach detach set call")


def reading_text(db: duckdb.DuckDBPyConnection, text: str, next_step: str) -> str:
    """The one statement in `text`, if all it does is to read the tables that are there.

    Raises:
        UsageError: It is not one statement, or not one that only reads.
        duckdb.Error: DuckDB does not understand it.
    """
    statements = db.extract_statements(text)
    if len(statements) != 1:
        raise UsageError(f"pplug sql runs one statement, saw {len(statements)}: {next_step}")
    kind = statements[0].type
    if kind == duckdb.StatementType.EXPLAIN and (match := _EXPLAIN.match(statements[0].query)):
        analyze = "analyze " if match["analyze"] else ""  # which runs what it explains
        explained = statements[0].query[match.end() :]
        return f"explain {analyze}{reading_text(db, explained, next_step)}"
    if kind == duckdb.StatementType.SELECT:
        found = next(_offences(_tree(db, text)), None)
    elif kind == duckdb.StatementType.MULTI and _is_pivot(db, statements[0].query):
        found = _pivot_offence(db, text)
    else:
        found = f"a statement of type {kind.name.lower().replace('_', ' ')}"
    if found:
        raise UsageError(f"pplug sql only reads, saw {found}: {next_step}")
    return text


def _tree(db: duckdb.DuckDBPyConnection, text: str) -> Mapping[str, Any]:
    [(found,)] = db.execute("select json_serialize_sql($text::varchar)", {"text": text}).fetchall()
    try:
        tree = json.loads(found)
    except RecursionError:
        tree = {"error": True, "error_message": "too many brackets in one another"}
    if tree["error"]:
        raise duckdb.ParserException(f"Parser Error: {tree['error_message']}")
    return tree


def _offences(tree: Mapping[str, Any]) -> Iterator[str]:
    """What in a tree may do more than read."""
    left: list[Any] = [tree]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left += node
        elif isinstance(node, dict):
            left += node.values()
            kind, is_expression = node.get("type"), "class" in node
            if isinstance(kind, str) and not is_expression and kind not in _READING_NODES:
                yield kind.removesuffix("_NODE").removesuffix("_QUERY").lower().replace("_", " ")
            if kind == "TABLE_FUNCTION" and not is_expression:
                name = str(node["function"].get("function_name")).lower()
                if name not in _TABLE_FUNCTIONS:
                    yield f"the function {name}"
            if str(node.get("function_name")).lower() in _CHANGING_FUNCTIONS:
                yield f"the function {str(node['function_name']).lower()}"


def _is_pivot(db: duckdb.DuckDBPyConnection, text: str) -> bool:
    """Whether a statement that is several to DuckDB is a `pivot`: only a query can stand in parentheses."""
    return len(db.extract_statements(f"from (\n{text.rstrip().rstrip(';')}\n)")) == 1


def _pivot_offence(db: duckdb.DuckDBPyConnection, text: str) -> str | None:
    """What a `pivot` without its values may do more than read.

    DuckDB gives no tree of one, so any word is taken for what it could mean, wherever it stands.
    """
    every = db.execute("select distinct lower(function_name) from duckdb_functions() where function_type like 'table%'")
    opening = {name for (name,) in every.fetchall()} - _TABLE_FUNCTIONS
    words = {word.lower() for word in _WORD.findall(text)}
    found = sorted(words & (opening | _WRITING_WORDS | _CHANGING_FUNCTIONS))
    return f"the word {found[0]} in a pivot without `in (...)`" if found else None
