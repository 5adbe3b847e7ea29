"""What `pplug generate` ends with: how the answers ended, and at a terminal three of them beside a new user's."""

import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipelines.command.console import message
from pipelines.command.streams import is_terminal
from pipelines.command.tables import OutputFormat, print_rows

if TYPE_CHECKING:
    from llm_jobs.kinds import Kind
    from pipelines.answers.models import GenerateConfig
    from pipelines.tables.warehouse import Warehouse

SHOWN: Final = 3  # answers that are shown side by side


def tell_of_answers(warehouse: "Warehouse", ds: date | None) -> None:
    """Say, without a text of anybody, how many answers of a night (the newest unless given) are bad at first sight.

    An answer is cut at the length limit of its kind; it repeats itself if half of its eight or more words came before.
    """
    from pipelines.tables.views import connect, run_sql
    from pipelines.verdicts.words import kind_words

    with connect(warehouse) as db:
        rows = run_sql(db, "report/answer_facts", {"ds": ds}).to_pylist()
    for row in rows:
        count = row["answer_count"]
        parts = [f"{kind_words(row['kind'])}: {count:,} answers"]
        for name, meaning in {
            "empty_count": "are empty",
            "length_count": "cut at the length limit",
            "repeating_count": "repeat themselves",
        }.items():
            if row[name]:
                parts.append(f"{row[name]:,} ({row[name] / count:.0%}) {meaning}")
        message(", ".join(parts))


def show_side_by_side(
    warehouse: "Warehouse", ds: date, plugs: Sequence[Path], config: "GenerateConfig", kinds: "Mapping[str, Kind]"
) -> None:
    """Show some answers beside what a user without a history would have got; only where a person looks on."""
    from pipelines.explain import explain
    from pipelines.tables.views import connect, run_sql

    if not is_terminal(sys.stdout):
        return
    with connect(warehouse) as db:
        chosen = run_sql(db, "report/examples", {"ds": ds, "limit": SHOWN}).to_pylist()
    rows: list[dict[str, object]] = []
    for row in chosen:
        found = explain(warehouse, row["task_id"], plugs, config, kinds, ds)
        default = next((one["answer"] for one in found.answers if one["arm"] == "default"), None)
        answers = {"answer": said(row["output"]), "a new user": said(default), "reference": row["reference"]}
        rows.append({"task_id": row["task_id"], **answers})
    if rows:
        print_rows(rows, OutputFormat.TABLE, whole=True)


def said(answer: str | None) -> str | None:
    """An answer as a person reads it."""
    return "(empty)" if answer == "" else answer
