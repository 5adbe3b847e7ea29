"""Find what a file most likely calls our columns, and say what to do where rows were refused for one reason."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from llm_jobs.kinds import Kind
from pipelines.intake.checks import COLUMN_TYPES, ColumnType, RowRules
from pipelines.intake.staging import Seen

_NAME: Final = re.compile(r"[^\W\d][\w.-]{0,40}")
"""What is shown as a column's name: the first row of a file without a header is somebody's text."""

TO_UTF8: Final = "save it as UTF-8, or convert it with `iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW`"
"""What to do with a file of another encoding, most often that of Windows' spreadsheets."""

TITLES: Final = ("headline", "title", "subject")
"""What other people call an output that is free text."""

LABELS: Final = ("label", "category", "section", "topic", "tag", "class")
"""What they call one of a few choices."""

SCORES: Final = ("rating", "score", "stars", "overall")
"""What they call one of a few numbers."""

TIMES: Final = (
    *("date", "time", "timestamp", "created_at", "published", "published_at", "created", "datetime", "day"),
    *("sent", "sent_at", "written_at", "when"),
)
"""What they call the time of a row."""

IDS: Final = ("id", "post_id", "article_id", "review_id", "asin", "message_id")
"""What they call the id of a row."""

USUAL_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "user_id": (
        *("user", "userid", "author", "author_id", "customer", "customer_id", "uid", "reviewerid", "username"),
        *("writer", "reviewer", "byline", "from", "sender", "from_address"),
    ),
    "item_id": IDS,
    "task_id": ("request_id", "job_id", "item_id", *IDS),
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
    "reference": ("answer", "gold", "target", "expected", "output"),
}
"""What other people call our columns."""


def advice(seen: Mapping[str, Seen], names: Sequence[str], given: Mapping[str, str], rules: RowRules) -> Iterator[str]:
    """A line for each source that is not UTF-8, and for each of which nothing was taken for another reason.

    Args:
        seen: what the rows of each source were.
        names: the tables they are for.
        given: the columns that were mapped.
        rules: what the rows might hold.
    """
    for source, file in seen.items():
        label = source.rpartition("/")[2]
        if count := file.reasons["not_utf8"]:
            yield f"{label}: {count:,} of {file.rows_in:,} rows hold text that is not UTF-8: {TO_UTF8}"
            continue
        if not file.rows_in or len(file.reasons) != 1 or file.reasons.total() < file.rows_in:
            continue
        (reason,) = file.reasons
        line = f"{label}: all {file.rows_in} rows were refused: {reason}"
        if file.names and len(names) == 1:
            line += "; " + _columns(file.names, names[0], given, rules)
        yield line


def _columns(found: frozenset[str], name: str, given: Mapping[str, str], rules: RowRules) -> str:
    """Which columns were found and are needed, and the --map that would fit."""
    has_kind = rules.kind is not None
    kind: Kind | None = rules.kinds.get(rules.kind) if isinstance(rules.kinds, Mapping) else None
    fitting = fitting_map(found, name, given, has_kind=has_kind, outputs=usual_outputs(kind))
    line = f"columns found: {shown(found)}; needed: {', '.join(needed_columns(name, has_kind=has_kind))}"
    return f"{line}; try --map {as_option(fitting)}" if fitting else line


def shown(found: Iterable[str]) -> str:
    """Columns of a file as a message names them."""
    return ", ".join(sorted(column if _NAME.fullmatch(column) else "…" for column in found))


def as_option(columns: Mapping[str, str]) -> str:
    """What stands behind --map."""
    return ",".join(f"{ours}={theirs}" for ours, theirs in columns.items())


def usual_outputs(kind: Kind | None) -> tuple[str, ...]:
    """What other people call the output of a kind; that of free text, where it is not known."""
    if kind is None or not kind.choices:
        return TITLES
    return SCORES if kind.choices[0].isdecimal() else LABELS


def needed_columns(name: str, *, has_kind: bool) -> list[str]:
    """The columns that no row of a table may lack; a text stands in for an input."""
    spared = {"item_id", "queued_at", *(["kind"] if has_kind else [])}
    needed = [
        column for column, form in COLUMN_TYPES[name].items() if form not in (ColumnType.OPTIONAL, ColumnType.CHOICES)
    ]
    return ["input (or text)" if column == "input" else column for column in needed if column not in spared]


def fitting_map(
    found: Iterable[str], name: str, given: Mapping[str, str], *, has_kind: bool, outputs: tuple[str, ...] = TITLES
) -> dict[str, str]:
    """For the columns of a table that a file lacks, those of the file that are most likely meant.

    Args:
        found: the columns of the file.
        name: the table.
        given: what is mapped already.
        has_kind: whether the kind is known without a column.
        outputs: what an output, or a reference, is most likely called.
    """
    usual = {**USUAL_NAMES, "output": (*outputs, *USUAL_NAMES["output"])}
    usual["reference"] += outputs
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
