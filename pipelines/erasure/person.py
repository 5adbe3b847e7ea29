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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BLACKED_OUT: Final = "█████"
CUT: Final = 200
"""Letters of an id in `rejects`; a longer one is cut there."""

TEXT_COLUMNS: Final = ("text", "output", "input", "reference")

_NO_FIELD: Final = r"""(?!["']\s*:)"""
"""Behind an id that is no name of a field."""

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
    names = rows.column_names
    if {"error", "config"} <= set(names):
        cells = zip(rows["error"].to_pylist(), rows["config"].to_pylist(), strict=True)
        return pa.array([_run_without(person, *run) != run for run in cells], pa.bool_())
    if "user_id" not in names:
        return pa.array([False] * rows.num_rows, pa.bool_())
    if not {"row_id", "detail", "source"} <= set(names):
        own = pc.call_function("equal", [rows["user_id"].cast(pa.string()), pa.scalar(person.user_id)])
        return own.fill_null(False).combine_chunks()
    return pc.call_function("or", [_own_refusals(rows, person), _from_named_files(rows, person)])


def without(rows: pa.Table, person: Person) -> pa.Table:
    """The rows that are left when the user is forgotten.

    Runs stay, and what their errors and names of files tell is blacked out; so do refused rows of others.
    """
    if {"error", "config"} <= set(rows.column_names):
        cells = zip(rows["error"].to_pylist(), rows["config"].to_pylist(), strict=True)
        errors, configs = zip(*(_run_without(person, *run) for run in cells), strict=True) if rows else ((), ())
        return _with_texts(_with_texts(rows, "error", errors), "config", configs)
    if not {"row_id", "detail", "source"} <= set(rows.column_names):
        return rows.filter(pc.call_function("invert", [own_rows(rows, person)]))
    left = rows.filter(pc.call_function("invert", [_own_refusals(rows, person)]))
    row_ids = [_place(person, *row) for row in _columns(left, "row_id", "source")]
    sources = [person.without_id(source) for source in left["source"].to_pylist()]
    return _with_texts(_with_texts(left, "row_id", row_ids), "source", sources)


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet file, as far as it has these columns; the folder's `ds` is no column."""
    try:
        file = pq.ParquetFile(path)
        there = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        return file.read(there)
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(f"{path}: {error}") from error


def _own_refusals(rows: pa.Table, person: Person) -> pa.Array:
    """Which refused rows are the user's: they go."""
    own = [_is_own_refusal(person, *row) for row in _columns(rows, "user_id", "row_id", "detail")]
    return pa.array(own, pa.bool_())


def _is_own_refusal(person: Person, user_id: str | None, row_id: str, detail: str) -> bool:
    if user_id:
        return person.is_id(user_id)
    # a row of LaMP is `question` or `question/item`, and the question is the user
    of_lamp = (row_id, row_id.partition("/")[0])
    is_asked = any(map(person.is_id, of_lamp)) or row_id.startswith(f"{person.user_id}/")
    return is_asked or person.is_named(detail)


def _from_named_files(rows: pa.Table, person: Person) -> pa.Array:
    """Which refused rows come from a file that has the user's id in its name."""
    return pa.array([person.without_id(source) != source for source in rows["source"].to_pylist()], pa.bool_())


def _place(person: Person, row_id: str, source: str) -> str:
    """A row's place without the user's id in the name of its file; numbers of lines are no ids."""
    name = Path(source).name
    return person.without_id(name) + row_id.removeprefix(name) if row_id.startswith(f"{name}:") else row_id


def _run_without(person: Person, error: str | None, config: str) -> tuple[str | None, str]:
    """Error and settings of a run, without the user."""
    settings: Any = json.loads(config)
    if isinstance(settings, dict):
        named = {name: _names_without(person, value) for name, value in settings.items() if name in FILE_SETTINGS}
        if any(named[name] != settings[name] for name in named):
            config = json.dumps(settings | named, sort_keys=True)
    return error and person.blacked_out(error), config


def _names_without(person: Person, value: object) -> object:
    if isinstance(value, str):
        return person.without_id(value)
    return [_names_without(person, inner) for inner in value] if isinstance(value, list) else value


def _columns(rows: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(rows[name].to_pylist() for name in names), strict=True)


def _with_texts(rows: pa.Table, name: str, texts: Sequence[str | None]) -> pa.Table:
    at = rows.column_names.index(name)
    return rows.set_column(at, rows.schema.field(at), pa.array(texts, pa.string()))


def _spellings(text: str) -> set[str]:
    """A text as it may be cited: plain, in JSON and in Python's own notation."""
    quoted = {spell(text)[1:-1] for spell in (json.dumps, partial(json.dumps, ensure_ascii=False), repr)}
    return quoted | {text}


def _whole(spelled: str, letter: str) -> str:
    """The words alone, no part of a longer word of such letters."""
    return rf"(?<!{letter}){re.escape(spelled)}(?!{letter})"
