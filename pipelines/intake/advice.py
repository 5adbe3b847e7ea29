"""Say once what is wrong with a file of which every row was refused for one reason."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from pipelines.intake.checks import FORMS, Form
from pipelines.intake.waiting import Seen

_NAME: Final = re.compile(r"[^\W\d][\w.-]{0,40}")
"""What is shown as a column's name: the first row of a file without a header is somebody's text."""

USUAL_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "user_id": ("user", "userid", "author", "author_id", "customer", "customer_id", "uid", "reviewerid", "username"),
    "item_id": ("id", "post_id", "article_id", "review_id", "asin", "message_id"),
    "task_id": ("id", "request_id", "job_id"),
    "kind": ("type", "task", "category"),
    "posted_at": ("date", "time", "timestamp", "created_at", "published", "published_at", "created", "datetime"),
    "queued_at": ("date", "time", "timestamp", "created_at", "created"),
    "text": ("body", "content", "article", "review", "reviewtext", "message", "abstract", "description"),
    "input": ("prompt", "text", "question", "query"),
    "output": ("headline", "title", "label", "rating", "score", "stars", "tag", "overall", "subject"),
    "reference": ("answer", "gold", "target", "expected", "output"),
}
"""What other people call our columns."""


def advice(seen: Mapping[str, Seen], names: Sequence[str], given: Mapping[str, str]) -> Iterator[str]:
    """A line for each source of which nothing was taken.

    Args:
        seen: what the rows of each source were.
        names: the tables they are for.
        given: the columns that were mapped.
    """
    for source, file in seen.items():
        if not file.rows_in or len(file.reasons) != 1 or file.reasons.total() < file.rows_in:
            continue
        (reason,) = file.reasons
        label = source.rpartition("/")[2]
        line = f"{label}: all {file.rows_in} rows were refused: {reason}"
        if file.names and len(names) == 1:
            line += "; " + _columns(file.names, names[0], given)
        yield line


def _columns(found: frozenset[str], name: str, given: Mapping[str, str]) -> str:
    """Which columns were found and are needed, and the --map that would fit."""
    shown = sorted(column if _NAME.fullmatch(column) else "…" for column in found)
    needed = [column for column, form in FORMS[name].items() if form not in (Form.OPTIONAL, Form.CHOICES)]
    needed = [column for column in needed if column != "item_id"]
    lacking = [column for column in FORMS[name] if given.get(column, column) not in found]
    pairs = [f"{column}={match}" for column in lacking if (match := _match(column, found - set(given.values())))]
    line = f"columns found: {', '.join(shown)}; needed: {', '.join(needed)}"
    return f"{line}; try --map {','.join(pairs)}" if pairs else line


def _match(column: str, found: frozenset[str]) -> str | None:
    """The column of a file that is most likely meant."""
    free = {name.lower(): name for name in found if _NAME.fullmatch(name)}
    for usual in USUAL_NAMES.get(column, ()):
        if usual in free:
            return free[usual]
    near = get_close_matches(column, free, n=1, cutoff=0.75)
    return free[near[0]] if near else None
