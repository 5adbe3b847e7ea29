"""What belongs to one user, in rows of any table.

    rows with a user_id     ─▶ theirs, if it is that id
    refused rows without    ─▶ theirs, if they tell the id or a text of theirs, and no other user's id
    errors of runs          ─▶ what they tell of the user is blacked out

An id is compared as a whole, letter by letter; nothing in it is a pattern.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.intake.rows import DETAIL_CHARACTERS, named_user, shown

BLACKED_OUT: Final = "█████"
HEAD: Final = 12
"""Letters that are looked for before a text is compared."""

TEXT_COLUMNS: Final = ("text", "output", "input", "reference")


@dataclass(frozen=True)
class Person:
    """A user, and what they alone wrote or were answered."""

    user_id: str
    texts: frozenset[str]

    @cached_property
    def spellings(self) -> list[str]:
        """Id and texts as they may be cited: plain, in JSON and in Python's own notation; the longest first."""
        needles = (self.user_id, *self.texts)
        quoted = {
            f(text)[1:-1] for text in needles for f in (json.dumps, partial(json.dumps, ensure_ascii=False), repr)
        }
        return sorted(quoted.union(needles), key=lambda spelled: (-len(spelled), spelled))

    def is_told(self, cited: str) -> bool:
        """Whether a text cites the user's id or one of their texts: as a whole, or up to the end where it is cut."""
        is_cut = len(cited) >= DETAIL_CHARACTERS
        return any(
            _whole(spelled).search(cited) is not None or (is_cut and spelled.startswith(cited[at:]))
            for spelled in self.spellings
            if (at := cited.find(spelled[:HEAD])) >= 0
        )

    def blacked_out(self, said: str) -> str:
        """The text without the user's id and texts."""
        for spelled in self.spellings:
            said = _whole(spelled).sub(BLACKED_OUT, said) if spelled in said else said
        return BLACKED_OUT if self.is_told(said) else said


def own_rows(rows: pa.Table, person: Person) -> pa.Array:
    """Which rows tell something of the user, (n,) BOOL; the columns say what kind of rows they are."""
    names = rows.column_names
    if "error" in names:
        return pa.array(
            [error is not None and person.is_told(error) for error in rows["error"].to_pylist()], pa.bool_()
        )
    if "user_id" not in names:
        return pa.array([False] * rows.num_rows, pa.bool_())
    if "detail" not in names:
        own = pc.call_function("equal", [rows["user_id"].cast(pa.string()), pa.scalar(person.user_id)])
        return own.fill_null(False).combine_chunks()
    columns = (rows[name].to_pylist() for name in ("user_id", "row_id", "detail"))
    own = [_is_own_refusal(person, *values) for values in zip(*columns, strict=True)]
    return pa.array(own, pa.bool_())


def without(rows: pa.Table, person: Person) -> pa.Table:
    """The rows that are left when the user is forgotten; runs stay, and what their errors tell is blacked out."""
    if "error" in rows.column_names:
        errors = [error and person.blacked_out(error) for error in rows["error"].to_pylist()]
        at = rows.column_names.index("error")
        return rows.set_column(at, rows.schema.field(at), pa.array(errors, pa.string()))
    return rows.filter(pc.call_function("invert", [own_rows(rows, person)]))


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet file, as far as it has these columns; the folder's `ds` is no column."""
    file = pq.ParquetFile(path)
    there = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
    return file.read(there)


def texts_of(user_id: str, paths: Sequence[Path]) -> frozenset[str]:
    """What a user, and nobody else, wrote, was asked or was answered, in Parquet files."""
    own = {text for path in paths for column in _texts(path, pc.field("user_id") == user_id) for text in column}
    for path in paths if own else ():
        for column in _texts(path, pc.field("user_id") != user_id):
            own.difference_update(column)
    return frozenset(own)


def _texts(path: Path, whose: pc.Expression) -> Iterator[set[str]]:
    """The texts of some users in each column that has any."""
    rows = read_rows(path, ["user_id", *TEXT_COLUMNS])
    if "user_id" in rows.column_names:
        for column in rows.filter(whose).drop_columns("user_id").columns:
            yield {text for text in column.unique().to_pylist() if text}


def _is_own_refusal(person: Person, user_id: str | None, row_id: str, detail: str) -> bool:
    if user_id:
        return user_id in (person.user_id, shown(person.user_id))
    if (named := named_user(detail)) is not None:
        return named == person.user_id
    question = shown(person.user_id)  # a row of LaMP: `question` or `question/item`, and the question is the user
    return row_id == question or row_id.startswith(f"{question}/") or person.is_told(detail)


def _whole(spelled: str) -> re.Pattern[str]:
    """The words alone: no part of a longer word, and no name of a field."""
    return re.compile(rf"""(?<!\w){re.escape(spelled)}(?!\w)(?!["']\s*:)""")
