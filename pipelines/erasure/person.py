"""What belongs to one user, in rows of any table.

    rows with a user_id     ─▶ theirs, if it is that id
    refused rows without    ─▶ theirs, if they tell the id and no other user's
    names of files          ─▶ an id in them is blacked out
    errors of runs          ─▶ what they tell of the user is blacked out

An id is compared as a whole, letter by letter; nothing in it is a pattern. What the user wrote is not looked for: every
row that may hold a text has its user's id, and no error cites one (`embedder.errors.error_line`).
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.tables import Row

BLACKED_OUT: Final = "█████"
CUT: Final = 200  # letters of an id in `rejects`; a longer one is cut there

TEXT_COLUMNS: Final = ("text", "output", "input", "reference")

_NO_FIELD: Final = r"""(?!["']\s*:)"""  # behind an id that is no name of a field

FILE_SETTINGS: Final = ("files", "plugs", "encoder", "llm", "cache")
"""Settings of a run that hold names which its user chose."""


@dataclass(frozen=True)
class Person:
    """A user."""

    user_id: str

    @cached_property
    def _id_pattern(self) -> re.Pattern[str]:
        spellings = sorted(_spellings(self.user_id), key=len, reverse=True)
        return re.compile("|".join(_whole(spelled, r"[\w█]") + _NO_FIELD for spelled in spellings))

    @cached_property
    def _file_pattern(self) -> re.Pattern[str]:
        return re.compile(_whole(self.user_id, r"([^\W_]|█)"))  # names of files are often put together with `_`

    def is_id(self, cell: str) -> bool:
        """Whether a cell is the user's id, or what was kept of it."""
        return cell == self.user_id or (len(cell) >= CUT and self.user_id.startswith(cell))

    def is_named(self, cited: str) -> bool:
        """Whether a text has the user's id in it, as a whole."""
        return self._id_pattern.search(cited) is not None

    def without_id(self, path: str) -> str:
        """The name of a file without the user's id."""
        return self._file_pattern.sub(BLACKED_OUT, path)

    def blacked_out(self, said: str) -> str:
        """The text without the user's id."""
        return self._id_pattern.sub(BLACKED_OUT, said)


def own_rows(rows: pa.Table, person: Person) -> pa.Array:
    """Which rows tell something of the user, (n,) BOOL; the columns say what kind of rows they are."""
    if row_without := _telling(rows):
        return pa.array([row_without(person, row) != row for row in rows.to_pylist()], pa.bool_())
    if "user_id" not in rows.column_names:
        return pa.array([False] * rows.num_rows, pa.bool_())
    own = pc.call_function("equal", [rows["user_id"].cast(pa.string()), pa.scalar(person.user_id)])
    return own.fill_null(False).combine_chunks()


def without(rows: pa.Table, person: Person) -> pa.Table:
    """The rows that are left when the user is forgotten.

    Runs stay, and what their errors and names of files tell is blacked out; so do refused rows of others.
    """
    if row_without := _telling(rows):
        left = (row_without(person, row) for row in rows.to_pylist())
        return pa.Table.from_pylist([row for row in left if row is not None], schema=rows.schema)
    return rows.filter(pc.call_function("invert", [own_rows(rows, person)]))


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet file, as far as it has these columns; the folder's `ds` is no column."""
    try:
        file = pq.ParquetFile(path)
        there = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        return file.read(there)
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(f"{path}: {error}") from error


def _telling(rows: pa.Table) -> Callable[[Person, Row], Row | None] | None:
    """What leaves nothing of a user in a row of runs, or of refused rows; None for rows of any other table."""
    names = set(rows.column_names)
    if {"error", "config"} <= names:
        return _run_without
    return _refusal_without if {"user_id", "row_id", "detail", "source"} <= names else None


def _refusal_without(person: Person, row: Row) -> Row | None:
    """A refused row without the user's id in the name of its file; None for one of the user: it goes."""
    row_id, source, name = row["row_id"], row["source"], Path(row["source"]).name
    if row["user_id"]:
        is_own = person.is_id(row["user_id"])
    else:  # a row of LaMP is `question` or `question/item`, and the question is the user
        is_asked = any(map(person.is_id, (row_id, row_id.partition("/")[0])))
        is_own = is_asked or row_id.startswith(f"{person.user_id}/") or person.is_named(row["detail"])
    if is_own:
        return None
    if row_id.startswith(f"{name}:"):  # numbers of lines are no ids
        row_id = person.without_id(name) + row_id.removeprefix(name)
    return {**row, "row_id": row_id, "source": person.without_id(source)}


def _run_without(person: Person, row: Row) -> Row:
    """A run without the user in its error and settings."""
    settings: Any = json.loads(row["config"])
    named = settings if isinstance(settings, dict) else {}
    told = {name: _names_without(person, value) for name, value in named.items() if name in FILE_SETTINGS}
    is_told = any(told[name] != settings[name] for name in told)
    config = json.dumps(settings | told, sort_keys=True) if is_told else row["config"]
    return {**row, "error": row["error"] and person.blacked_out(row["error"]), "config": config}


def _names_without(person: Person, value: object) -> object:
    if isinstance(value, str):
        return person.without_id(value)
    return [_names_without(person, inner) for inner in value] if isinstance(value, list) else value


def _spellings(text: str) -> set[str]:
    """A text as it may be cited: plain, in JSON and in Python's own notation."""
    quoted = {spell(text)[1:-1] for spell in (json.dumps, partial(json.dumps, ensure_ascii=False), repr)}
    return quoted | {text}


def _whole(spelled: str, letter: str) -> str:
    """The words alone, no part of a longer word of such letters."""
    return rf"(?<!{letter}){re.escape(spelled)}(?!{letter})"
