"""Is it personal? One sentence about a kind's evaluation, and how its intervals are drawn as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipelines.tables import Row
from pipelines.verdicts.words import ERRORS, MAIN, metric_words, points

FEW_USERS: Final = 20  # below so many users an interval over them says little, whatever it says

MINUS: Final = "\N{MINUS SIGN}"

DRAWN: Final = 24  # characters of an interval


class Finding(StrEnum):
    """What an evaluation says of personas."""

    PERSONAL = "personal"
    NOT_PERSONAL = "not personal"
    WORSE = "worse"
    TOO_FEW = "too few"
    NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Verdict:
    """A finding in a sentence."""

    finding: Finding
    sentence: str


def main_metric(rows: Sequence[Row]) -> str:
    """The metric that a verdict speaks of."""
    there = {row["metric"] for row in rows}
    return next((metric for metric in MAIN if metric in there), min(there))


def verdict(rows: Sequence[Row], user_count: int) -> Verdict:
    """Say whether a kind's answers are personal.

    Args:
        rows: of `evaluations`, one kind, all tasks, each arm and metric once.
        user_count: users with a reference.
    """
    metric = main_metric(rows)
    by_arm = {row["arm"]: row for row in rows if row["metric"] == metric}
    found = gain(by_arm, "other", metric)
    if found is None:
        told = "Whether answers are personal is not known: evaluate with --controls to compare with other personas."
        return Verdict(Finding.NOT_COMPARED, told)
    value, low, high = found
    interval = f"95% interval {_signed(low, metric)} to {_signed(high, metric)}"
    of = f"{by_arm['own']['task_count']:,} tasks of {user_count:,} users"
    if user_count < FEW_USERS:
        told = (
            f"Too few to tell: {of}, and an interval over fewer than {FEW_USERS} users says little. So far a user's own"
        )
        return Verdict(Finding.TOO_FEW, f"{told} persona is {_ahead(value, metric)} somebody else's ({interval}).")
    if low > 0:
        told = f"Personal: a user's own persona beats somebody else's by {points(value, metric)} ({interval}; {of})."
        return Verdict(Finding.PERSONAL, told + _beside(by_arm, metric))
    if high < 0:
        told = f"Worse than with somebody else's persona, by {points(value, metric)} ({interval}; {of})."
        return Verdict(Finding.WORSE, f"{told} Look at rejects and labels, then train again.")
    if max(-low, high) * metric_words(metric).scale < NOTHING[metric in ERRORS]:
        told = f"Not personal: a user's own persona makes no difference to somebody else's ({interval}; {of})."
        return Verdict(Finding.NOT_PERSONAL, told)
    told = f"Too few to tell: a user's own persona is {_ahead(value, metric)} somebody else's ({interval}; {of})."
    return Verdict(Finding.TOO_FEW, told + _more_tasks(value, low, high))


def kind_verdicts(rows: Sequence[Row], user_counts: Mapping[str, int]) -> dict[str, Verdict]:
    """A verdict for each kind, from its rows of all tasks and its users with a reference."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    return {kind: verdict([row for row in rows if row["kind"] == kind], user_counts.get(kind, 0)) for kind in kinds}


NOTHING: Final = {False: 1.0, True: 0.02}
"""Differences that nobody would notice: in points, and of a rating step."""


def gain(by_arm: Mapping[str, Row], arm: str, metric: str) -> tuple[float, float, float] | None:
    """How much better `own` is than another arm, with the paired interval; None if that is not known."""
    row = by_arm.get(arm)
    if row is None or row.get("difference") is None or row.get("compared_with") != "own":
        return None
    value, low, high = row["difference"], row["difference_low"], row["difference_high"]
    return (value, low, high) if metric in ERRORS else (-value, -high, -low)


def drawn_interval(row: Row, least: float, most: float, width: int = DRAWN) -> str:
    """The interval of a row on a line from `least` to `most`: `  ├──●─┤   `."""
    span = (most - least) or 1.0

    def place(value: float) -> int:
        return min(width - 1, max(0, round((value - least) / span * (width - 1))))

    line = [" "] * width
    if row["low"] is not None and row["high"] is not None:
        low, high = place(row["low"]), place(row["high"])
        line[low : high + 1] = "─" * (high - low + 1)
        line[low], line[high] = "├", "┤"
    line[place(row["value"])] = "●"
    return "".join(line).rstrip()


def reach(rows: Sequence[Row]) -> tuple[float, float]:
    """The ends of an axis that shows the difference between the rows, with a little room."""
    ends = [row[name] for row in rows for name in ("low", "value", "high") if row[name] is not None]
    room = (max(ends) - min(ends)) * 0.05
    least = min(ends) - room
    return (max(0.0, least) if min(ends) >= 0 else least), max(ends) + room


def _beside(by_arm: Mapping[str, Row], metric: str) -> str:
    found = gain(by_arm, "none", metric)
    if found is None:
        return ""
    value, low, high = found
    if low <= 0 <= high:
        return " With the language model alone there is no clear difference."
    return f" It is {_ahead(value, metric)} the language model alone."


def _more_tasks(value: float, low: float, high: float) -> str:
    """How many times as many users it takes for the interval to leave zero, if the difference is what it seems."""
    half = (high - low) / 2
    times = (half / abs(value)) ** 2 if value else float("inf")
    return f" About {times:.0f} times as many would tell." if 1.5 <= times < 20 else " Many more would have to tell."


def _ahead(value: float, metric: str) -> str:
    return f"{points(value, metric)} {'better' if value >= 0 else 'worse'} than"


def _signed(value: float, metric: str) -> str:
    return f"{'+' if value >= 0 else MINUS}{points(value, metric).split()[0]}"
