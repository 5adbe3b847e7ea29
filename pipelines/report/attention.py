"""What stands on top of the report: one sentence, and what needs a look with the command to type."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pipelines.report.night import NightNumbers
from pipelines.verdicts.evaluated import Finding

MANY_REJECTS: Final = 0.05
MANY_DEFAULTS: Final = 0.2
MANY_LONG: Final = 0.1
LITTLE_LIKE: Final = 0.5
"""Shares, and a cosine, from which on something needs a look."""


@dataclass(frozen=True)
class Attention:
    """Something that needs a look."""

    told: str
    command: str
    is_failure: bool = False


def needs_attention(night: NightNumbers) -> list[Attention]:
    """What needs a look, failures first."""
    found = [*_of_jobs(night), *_of_tasks(night), *_of_answers(night), *_of_personas(night), *_of_quality(night)]
    return sorted(found, key=lambda one: not one.is_failure)


def headline(night: NightNumbers, found: list[Attention]) -> tuple[str, str]:
    """The colour (good, look or bad) and the sentence on top."""
    if any(one.is_failure for one in found):
        return "bad", f"Something went wrong: {next(one.told for one in found if one.is_failure)}"
    answered = sum(row["answer_count"] for row in night.answers)
    personal = [kind for kind, one in night.verdicts.items() if one.finding is Finding.PERSONAL]
    if found:
        things = "one thing needs" if len(found) == 1 else f"{len(found)} things need"
        return "look", f"Done, but {things} a look: {answered:,} tasks answered."
    if personal:
        return "good", f"Done, and better than without personas: {answered:,} tasks answered."
    return "good", f"Done: {answered:,} tasks answered." if answered else "Done."


def _of_jobs(night: NightNumbers) -> Iterator[Attention]:
    for run in night.runs:
        if run["status"] != "done":
            yield Attention(f"{run['job']} is {run['status']}.", f"pplug runs --ds {night.ds}", is_failure=True)


def _of_tasks(night: NightNumbers) -> Iterator[Attention]:
    for row in (row for row in night.coverage if row["ds"] == night.ds):
        if row["open_count"]:
            told = f"{row['open_count']:,} of {row['task_count']:,} tasks of {row['kind']} have no answer."
            yield Attention(told, f"pplug generate --ds {night.ds} --plug DIR")
        if row["default_count"] > MANY_DEFAULTS * row["task_count"]:
            of_kind = f"{row['task_count']:,} tasks of {row['kind']}"
            told = f"{row['default_count']:,} of {of_kind} were answered without a persona."
            yield Attention(told, f"pplug query uncovered_users -p ds={night.ds}")
    rows_in = sum(row["rows_in"] or 0 for row in night.runs)
    rejected = sum(row["reject_count"] for row in night.rejects)
    if rejected > MANY_REJECTS * max(1, rows_in):
        yield Attention(
            f"{rejected:,} of {rows_in:,} rows were refused.", f"pplug query reject_reasons -p ds={night.ds}"
        )


def _of_answers(night: NightNumbers) -> Iterator[Attention]:
    meanings = {
        "empty_count": "are empty",
        "length_count": "ran into the length limit (max_new_tokens of the kind)",
        "repeating_count": "repeat themselves",
        "shortened_count": "are to prompts that lost their middle",
    }
    for row in night.answers:
        for name, meaning in meanings.items():
            if row[name] > MANY_LONG * row["answer_count"]:
                told = f"{row[name]:,} of {row['answer_count']:,} answers of {row['kind']} {meaning}."
                yield Attention(told, f"pplug kinds {row['kind']}")


def _of_personas(night: NightNumbers) -> Iterator[Attention]:
    behind = sum(row["user_count"] for row in night.staleness)
    if behind:
        yield Attention(f"{behind:,} users wrote more since their persona was made.", "pplug query stale_personas")
    for row in night.drift:
        if row["ds"] == night.ds and row["p05_similarity"] < LITTLE_LIKE:
            told = f"One persona in twenty has moved far since {row['previous_ds']} (cosine below {LITTLE_LIKE})."
            yield Attention(told, f"pplug query persona_drift -p ds={night.ds}")


def _of_quality(night: NightNumbers) -> Iterator[Attention]:
    for kind, one in night.verdicts.items():
        if one.finding is Finding.NOT_COMPARED:
            command = f"pplug evaluate --ds {night.ds} --controls --plug DIR"
            yield Attention(f"Whether answers of {kind} are personal is not known.", command)
        elif one.finding is Finding.TOO_FEW:
            yield Attention(f"{kind}: {one.sentence}", f"pplug ingest tasks FILE --ds {night.ds}")
        elif one.finding is not Finding.PERSONAL:
            yield Attention(f"{kind}: {one.sentence}", f"pplug train --plug DIR --kind {kind}")
