"""Rows on stdout: a table that fits, or everything for machines.

rows ─┬─ --json, --csv ─▶ every column, every value whole
      ├─ --wide, a pipe ▶ one line a row, never folded
      └─ a terminal ────▶ what is the same in all rows, once ─▶ columns that fit ─▶ table, or a block for each row
"""

import csv
import io
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Final

from pipelines.command.cells import decimals_of, exact_cell, plain, short_cell
from pipelines.command.console import message
from pipelines.command.streams import is_terminal, speaks_unicode, visible, visible_json, write_out
from pipelines.tables import Row

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console, RenderableType

TABLE_ROWS: Final = 1_000
"""Most rows of a printed table; --json and --csv print all."""

GAP: Final = 2
"""Spaces between two columns."""

FEW_ROWS: Final = 3
"""So many rows become blocks where not all of their columns have room; one row also where a text would be folded."""

LEAST_TEXT: Final = 16
"""Characters that a column of texts keeps, unless all are shorter."""

LONGEST_KEY: Final = 40
"""Characters of an id; of a longer one a terminal shows the beginning and the end."""

TEXT_LINES: Final = 2
"""Most lines of a text in a table, and thrice as many in a block, where only an impression is wanted."""

LONG: Final = 80
"""With --wide rows that hold longer values become blocks."""

ENDLESS: Final = 100_000
"""Width of what is no terminal: nothing is folded."""

KEPT: Final = ("status", "error", "detail", "text", "output", "reference", "reason", "answer", "a new user")
"""Columns that are left out last where the width is short, and stay with each of few rows where they are equal."""


class OutputFormat(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True)
class Column:
    """A column as it is drawn."""

    name: str
    cells: Sequence[str]
    is_text: bool  # may be cut and folded; numbers, ids, days and times may not
    is_number: bool
    is_narrow: bool = True  # the width is short: a name may take several lines

    @property
    def head(self) -> str:
        """The name, over several lines where it is wider than what it names."""
        fits = not self.is_narrow or len(self.name) <= max(self._widest, 7)
        return self.name if fits else self.name.replace("_", "_\n")

    @property
    def natural(self) -> int:
        """Width that shows everything."""
        return max(self._widest, *map(len, self.head.splitlines()))

    @property
    def least(self) -> int:
        """Width below which it says nothing."""
        return min(self.natural, LEAST_TEXT) if self.is_text else self.natural

    @property
    def _widest(self) -> int:
        from rich.cells import cell_len

        return max((cell_len(line) for cell in self.cells for line in cell.splitlines()), default=0)


def print_rows(
    rows: Iterable[Row], form: OutputFormat = OutputFormat.TABLE, hidden: Sequence[str] = (), *, whole: bool = False
) -> None:
    """Print rows on stdout.

    Args:
        rows: all with the same keys. For machines dates become ISO text; a number that is not finite becomes null.
        form: how they look.
        hidden: columns that the table leaves out.
        whole: texts take as many lines as they need, however many.
    """
    if form in (OutputFormat.JSON, OutputFormat.CSV):
        lines = map(_json_row, rows) if form is OutputFormat.JSON else _csv_lines(rows)
        while (lot := list(islice(lines, TABLE_ROWS))) and write_out("".join(lot)):
            pass
        return
    left = iter(rows)
    shown = list(islice(left, TABLE_ROWS))
    if shown and form is OutputFormat.WIDE:
        _draw_wide(shown)
    elif shown:
        _draw(shown, hidden, 0 if whole else TEXT_LINES)
    more = sum(1 for _ in left)
    if more or not shown:
        message(f"{more:,} more rows: --json prints them all" if more else "no rows")


def rows_of(table: "pa.Table") -> Iterator[Row]:
    """The rows of an Arrow table, converted batch by batch."""
    for batch in table.to_batches(max_chunksize=TABLE_ROWS):
        yield from batch.to_pylist()


def columns_of(rows: Sequence[Row], hidden: Sequence[str], now: datetime | None) -> list[Column]:
    """The columns that hold something, each with its values in few characters."""
    names = [name for name in rows[0] if name not in hidden and any(row[name] not in (None, "", []) for row in rows)]
    return [_column(name, rows, now) for name in names]


def taken_out(columns: Sequence[Column]) -> tuple[list[Column], list[Column]]:
    """The columns that differ between the rows, and those that say the same in each, but for the words of few rows."""
    same = [c for c in columns if len(c.cells) > (FEW_ROWS if c.name in KEPT else 1) and len(set(c.cells)) == 1]
    differing = [column for column in columns if column not in same]
    return (differing, same) if differing else (list(columns), [])


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that have room, in their order: the last ones give way first, those of `KEPT` after all others."""
    chosen = list(columns)
    for column in [*(c for c in reversed(columns[1:]) if c.name not in KEPT), *reversed(columns[1:])]:
        if sum(one.least + GAP for one in chosen) - GAP <= width:
            break
        if column in chosen:
            chosen.remove(column)
    return chosen


def widths_of(columns: Sequence[Column], width: int) -> list[int]:
    """How wide each column is: what is left after the least of all goes to the narrow ones first."""
    found = {column.name: column.least for column in columns}
    left = width - sum(found.values()) - GAP * (len(columns) - 1)
    wanting = sorted((c for c in columns if c.natural > c.least), key=lambda column: column.natural)
    for at, column in enumerate(wanting):
        more = min(column.natural - column.least, max(0, left) // (len(wanting) - at))
        found[column.name] += more
        left -= more
    return [found[column.name] for column in columns]


def _column(name: str, rows: Sequence[Row], now: datetime | None) -> Column:
    values = [row[name] for row in rows]
    decimals = decimals_of(values)
    cells = [visible(short_cell(name, value, decimals, now)) for value in values]
    is_number = all(value is None or (not isinstance(value, str) and _is_number(value)) for value in values)
    is_key = name in ("user_id", "task_id", "run_id", "ds", "kind", "job", "arm", "metric", "status")
    is_time = any(isinstance(value, datetime) for value in values)
    if is_key and now is not None:
        cells = [cell if len(cell) <= LONGEST_KEY else f"{cell[: LONGEST_KEY - 9]}…{cell[-8:]}" for cell in cells]
    return Column(visible(name), cells, not (is_number or is_key or is_time), is_number, is_narrow=now is not None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _draw(rows: Sequence[Row], hidden: Sequence[str], lines: int) -> None:
    at_screen = is_terminal(sys.stdout)
    columns = columns_of(rows, hidden, datetime.now(UTC) if at_screen else None)
    if not at_screen:
        return _write(_table(columns, [column.natural for column in columns], 0), ENDLESS)
    width = shutil.get_terminal_size().columns
    differing, same = taken_out(columns)
    if sum(replace(column, is_narrow=False).natural + GAP for column in differing) - GAP <= width:
        differing = [replace(column, is_narrow=False) for column in differing]
    chosen = fitting(differing, width)
    if same:
        told = " · ".join(f"{column.name} {column.cells[0]}" for column in same)
        write_out(_folded(told, width, TEXT_LINES) + "\n\n")
    folds = sum(column.natural + GAP for column in chosen) - GAP > width
    if len(rows) <= FEW_ROWS and (len(chosen) < len(differing) or (folds and len(rows) == 1)):
        return _write(_blocks(differing, width, 3 * lines), width)
    _write(_table(chosen, widths_of(chosen, width), lines), width)
    if left_out := [column.name for column in differing if column not in chosen]:
        names = _folded(", ".join(left_out), max(20, width - 39), 1)
        message(f"no room for {names}: --wide shows every column")
    return None


def _draw_wide(rows: Sequence[Row]) -> None:
    cells = {name: [visible(exact_cell(row[name])) for row in rows] for name in rows[0]}
    columns = [
        Column(visible(name), own, False, all(row[name] is None or _is_number(row[name]) for row in rows), False)
        for name, own in cells.items()
    ]
    widths = [column.natural for column in columns]
    if max(widths) > LONG:
        width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else ENDLESS
        return _write(_blocks(columns, width, 0), width)
    return _write(_table(columns, widths, 0), ENDLESS)


def _table(columns: Sequence[Column], widths: Sequence[int], lines: int) -> "RenderableType":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        side = "right" if column.is_number else "left"
        table.add_column(Text(column.head), justify=side, width=width, overflow="fold")
    for at in range(len(columns[0].cells) if columns else 0):
        texts = [_folded(column.cells[at], width, lines) for column, width in zip(columns, widths, strict=True)]
        table.add_row(*map(Text, texts))
    return table


def _blocks(columns: Sequence[Column], width: int, lines: int) -> "RenderableType":
    """Each row as lines of name and value."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    name_width = max(len(column.name) for column in columns)
    left = max(LEAST_TEXT, width - name_width - GAP)
    blocks: list[RenderableType] = []
    for at in range(len(columns[0].cells)):
        block = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
        block.add_column(width=name_width, no_wrap=True)
        block.add_column(overflow="fold")
        for column in columns:
            if column.cells[at]:
                block.add_row(Text(column.name, "dim"), Text(_folded(column.cells[at], left, lines)))
        blocks += [Text(), block] if at else [block]
    return Group(*blocks)


def _folded(text: str, width: int, most: int) -> str:
    """The text in lines of that width, in at most so many if `most` is not 0."""
    from rich.text import Text

    if width >= ENDLESS:
        return text
    wrapped = [line.plain.rstrip() for line in Text(text).wrap(_console(width), width)]
    if not most or len(wrapped) <= most:
        return "\n".join(wrapped)
    last = Text(wrapped[most - 1])
    last.truncate(width - 1)
    return "\n".join([*wrapped[: most - 1], last.plain.rstrip(" .…") + "…"])


def _console(width: int) -> "Console":
    from rich.console import Console

    at_screen = is_terminal(sys.stdout)
    # without a height a dumb terminal would be 80 wide
    return Console(file=sys.stdout, highlight=False, force_terminal=at_screen, width=width, height=25)


def _write(drawn: "RenderableType", width: int) -> None:
    console = _console(width)
    with console.capture() as captured:
        console.print(drawn)
    lines = [f"{line.rstrip()}\n" for line in captured.get().splitlines()]
    write_out("".join([*lines, "\n"] if is_terminal(sys.stdout) else lines))  # room between tables


def _json_row(row: Row) -> str:
    return visible_json(json.dumps(plain(row), ensure_ascii=not speaks_unicode(sys.stdout))) + "\n"


def _csv_lines(rows: Iterable[Row]) -> Iterator[str]:
    """The names of the columns, then a line a row."""
    names: list[str] = []
    for row in rows:
        head = [] if names else [map(visible, names := list(row))]
        written, cells = io.StringIO(), [visible(exact_cell(row[name])) for name in names]
        csv.writer(written, lineterminator="\n").writerows([*head, cells])
        yield written.getvalue()
