"""Find what a file most likely calls our columns, and say so where every row was refused for one reason."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from pipelines.intake.checks import COLUMN_TYPES, ColumnType
from pipelines.intake.staging import Seen

_NAME: Final = re.compile(r"[^\W\d][\w.-]{0,40}")
"""What is shown as a column's name: the first row of a file without a header is somebody's text."""

TITLES: Final = ("headline", "title", "subject")
"""What other people call an output that is free text."""

LABELS: Final = ("label", "category", "section", "topic", "tag", "class")
"""What they call one of a few choices."""

SCORES: Final = ("rating", "score", "stars", "overall")
"""What they call one of a few numbers."""

TIMES: Final = (
    *("date", "time", "timestamp", "created_at", "published", "published_at", "created", "datetime", "day"),
    *("sent", "sent_at", "written_at"),
)
"""What they call the time of a row."""

USUAL_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "user_id": (
        *("user", "userid", "author", "author_id", "customer", "customer_id", "uid", "reviewerid", "username"),
        *("writer", "reviewer", "byline", "from", "sender", "from_address"),
    ),
    "item_id": ("id", "post_id", "article_id", "review_id", "asin", "message_id"),
    "task_id": ("id", "request_id", "job_id", "item_id"),
    "kind": ("type", "task", "category"),
    "posted_at": TIMES,
    "queued_at": (*TIMES, "posted_at"),
    "text": (
        "body",
        "content",
        "article",
        "review",
        "reviewtext",
        "message",
        "abstract",
        "description",
        "teaser",
        "summary",
    ),
    "input": ("prompt", "question", "query"),
    "output": (*TITLES, *LABELS, *SCORES),
    "reference": ("answer", "gold", "target", "expected", "output", *TITLES),
}
"""What other people call our columns."""


def advice(
    seen: Mapping[str, Seen], names: Sequence[str], given: Mapping[str, str], *, has_kind: bool = False
) -> Iterator[str]:
    """A line for each source of which nothing was taken.

    Args:
        seen: what the rows of each source were.
        names: the tables they are for.
        given: the columns that were mapped.
        has_kind: whether rows that name no kind have one all the same.
    """
    for source, file in seen.items():
        if not file.rows_in or len(file.reasons) != 1 or file.reasons.total() < file.rows_in:
            continue
        (reason,) = file.reasons
        label = source.rpartition("/")[2]
        line = f"{label}: all {file.rows_in} rows were refused: {reason}"
        if file.names and len(names) == 1:
            line += "; " + _columns(file.names, names[0], given, has_kind=has_kind)
        yield line


def _columns(found: frozenset[str], name: str, given: Mapping[str, str], *, has_kind: bool) -> str:
    """Which columns were found and are needed, and the --map that would fit."""
    fitting = fitting_map(found, name, given, has_kind=has_kind)
    line = f"columns found: {shown(found)}; needed: {', '.join(needed_columns(name, has_kind=has_kind))}"
    return f"{line}; try --map {as_option(fitting)}" if fitting else line


def shown(found: Iterable[str]) -> str:
    """Columns of a file as a message names them."""
    return ", ".join(sorted(column if _NAME.fullmatch(column) else "…" for column in found))


def as_option(columns: Mapping[str, str]) -> str:
    """What stands behind --map."""
    return ",".join(f"{ours}={theirs}" for ours, theirs in columns.items())


def needed_columns(name: str, *, has_kind: bool) -> list[str]:
    """The columns that no row of a table may lack; a text stands in for an input."""
    spared = {"item_id", "kind"} if has_kind else {"item_id"}
    needed = [
        column for column, form in COLUMN_TYPES[name].items() if form not in (ColumnType.OPTIONAL, ColumnType.CHOICES)
    ]
    return ["input (or text)" if column == "input" else column for column in needed if column not in spared]


def fitting_map(
    found: Iterable[str], name: str, given: Mapping[str, str], *, has_kind: bool, outputs: Sequence[str] = TITLES
) -> dict[str, str]:
    """For the columns of a table that a file lacks, those of the file that are most likely meant.

    Args:
        found: the columns of the file.
        name: the table.
        given: what is mapped already.
        has_kind: whether the kind is known without a column.
        outputs: names that an output has before all others.
    """
    usual = {**USUAL_NAMES, "output": (*outputs, *USUAL_NAMES["output"])}
    there = frozenset(found)
    pairs: dict[str, str] = {}
    for column in COLUMN_TYPES[name]:
        is_spared = (column == "kind" and has_kind) or (column == "input" and given.get("text", "text") in there)
        if is_spared or given.get(column, column) in there:
            continue
        free = there - {*given.values(), *pairs.values(), *COLUMN_TYPES[name]}
        for ours in (column, "text") if column == "input" else (column,):
            if match := _match(ours, free, usual.get(ours, ())):
                pairs[ours] = match
                break
    return pairs


def _match(column: str, found: frozenset[str], usual: Iterable[str]) -> str | None:
    """The column of a file that is most likely meant."""
    free = {name.lower(): name for name in found if _NAME.fullmatch(name)}
    for name in usual:
        if name in free:
            return free[name]
    near = get_close_matches(column, free, n=1, cutoff=0.75)
    return free[near[0]] if near else None
