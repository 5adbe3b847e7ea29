"""Look at a file of histories: what its columns are called, and which of its first rows would be taken.

file ─▶ names ─▶ fitting_map ─▶ the first rows, checked ─▶ Looked
"""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from embedder.errors import UsageError
from llm_jobs.kinds import Kind
from llm_jobs.labels import label_of
from pipelines.intake.advice import fitting_map, needed_columns, shown, usual_outputs
from pipelines.intake.checks import RowRules, check_chunk, renamed
from pipelines.intake.chunks import Chunk, ColumnNames
from pipelines.intake.remote import spelled
from pipelines.intake.sources import Source, expanded, read_chunks
from pipelines.intake.times import Years

USERS: Final = 3
"""How many users of a file get a task."""

MOST_LABELS: Final = 64
"""A column with more different texts holds no labels."""


@dataclass(frozen=True)
class Looked:
    """What was found in a file."""

    columns: Mapping[str, str]
    """Our columns and what the file calls them, where that is something else."""
    users: Sequence[str]
    """The first users."""
    row_count: int
    """Rows looked at, from the beginning of the file."""
    refused: Mapping[str, int]
    """How many of them would be refused, by reason."""
    labels: Sequence[str] = ()
    """Their labels, the most frequent first, where some are none of the kind's choices."""


def look_at(
    file: Path,
    kind: Kind,
    kinds: Mapping[str, Kind],
    given: Mapping[str, str],
    options: Mapping[str, str] | None = None,
) -> Looked:
    """Find the columns of a file of histories.

    Args:
        file: a file as `pplug ingest histories` takes it.
        kind: the kind of its items.
        kinds: the kinds there are.
        given: columns that are known already.
        options: of the object store, for a file that lies in one.

    Raises:
        InputMissing: if the file is not there.
        UsageError: if a column that is needed is not found, or the file holds no rows.
    """
    source, *_ = expanded([file], options)
    if source.is_stdin:
        raise UsageError("--from takes a file: standard input cannot be read twice")
    names = _first(source, {}).names | frozenset(source.partitions)
    if not names:
        raise UsageError(
            f"{source.label} has no columns to look at: `pplug ingest histories {spelled(file)} --dry-run` says why"
        )
    columns = dict(given) | fitting_map(names, "histories", given, has_kind=True, outputs=usual_outputs(kind))
    wanted = [*needed_columns("histories", has_kind=True), *(["output"] if kind.prompt is not None else [])]
    require_found(source, [column for column in wanted if columns.get(column, column) not in names], names)
    chunk = _first(source, renamed("histories", columns))
    checked = check_chunk("histories", chunk, RowRules(kinds, Years.until(datetime.now(UTC).year), kind=kind.name))
    users = list(dict.fromkeys(checked.rows["user_id"].to_pylist()))[:USERS]
    reasons = Counter(reject.reason for _, reject in checked.refused)
    labels = own_labels(checked.rows["output"].to_pylist(), kind)
    return Looked(columns, users, checked.rows.num_rows + len(checked.refused), reasons, labels)


def require_found(source: Source, lacking: Sequence[str], names: Iterable[str]) -> None:
    """Refuse a file in which columns that are needed were not found."""
    if lacking:
        advice = ",".join(f"{column}=COLUMN" for column in lacking)
        told = f"{source.label}: which column is {' and which is '.join(lacking)}?"
        raise UsageError(f"{told} Columns found: {shown(names)}: name it with --map {advice}")


def own_labels(outputs: Iterable[str | None], kind: Kind) -> list[str]:
    """The labels of a file, where the kind's prompt can name them and some are none of its choices; else none."""
    labels: list[str] = []
    for label, _ in Counter(output for output in outputs if output).most_common():
        if label_of(label, labels) is None:
            labels.append(label)
    is_known = all(label_of(label, kind.choices or ()) for label in labels)
    return [] if is_known or "{choices}" not in (kind.prompt or "") or len(labels) > MOST_LABELS else labels


def _first(source: Source, columns: ColumnNames) -> Chunk:
    """The beginning of a file."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(read_chunks(source, columns, Path(folder))) as chunks,
    ):
        return next(chunks, Chunk())
