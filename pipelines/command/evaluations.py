"""What `pplug evaluate` shows a person: for each metric a line an arm, then whether the answers are personal."""

from collections.abc import Iterable, Mapping, Sequence

from pipelines.command.cells import decimals_of
from pipelines.slices import ALL
from pipelines.tables import Row
from pipelines.verdicts.evaluated import drawn_interval, kind_verdicts, main_metric, reach
from pipelines.verdicts.words import ARMS, ERRORS, kind_words, metric_words

Lines = list[dict[str, object]]


def metric_tables(rows: Iterable[Row]) -> Iterable[tuple[str, Lines]]:
    """For each kind and metric a heading and a line for each arm; of more than the usual four the best comes first."""
    whole = [row for row in rows if row["slice"] in (None, "all")]
    for kind, metric in dict.fromkeys((row["kind"], row["metric"]) for row in whole):
        mine = [row for row in whole if (row["kind"], row["metric"]) == (kind, metric)]
        if says_the_same(mine, whole):
            continue
        words = metric_words(metric)
        meaning = f", {words.meaning}" if words.meaning else ""
        yield f"{kind_words(kind)} · {words.name}{meaning} · {mine[0]['task_count']:,} tasks", lines_of(mine)


def says_the_same(rows: Sequence[Row], all_rows: Iterable[Row]) -> bool:
    """Whether they are of a metric for any script, and so is the one for Latin script."""
    same = {(row["kind"], f"{row['metric']}-unicode", row["arm"]): row["value"] for row in all_rows}
    return all(same.get((row["kind"], row["metric"], row["arm"])) == row["value"] for row in rows)


def lines_of(rows: Sequence[Row]) -> Lines:
    """A line for each arm of one kind and metric."""
    least, most = reach(rows)
    decimals = decimals_of([row["value"] for row in rows])
    axis = f"{least:.{decimals}f} to {most:.{decimals}f}"
    order = list(ARMS)
    sign = 1 if rows[0]["metric"] in ERRORS else -1
    few = all(row["arm"] in order[:4] for row in rows)
    ordered = sorted(rows, key=lambda row: order.index(row["arm"]) if few else sign * row["value"])
    return [
        {
            "answered with": ARMS.get(row["arm"], row["arm"]),
            "arm": row["arm"],
            "value": row["value"],
            axis: drawn_interval(row, least, most),
            "low": row["low"],
            "high": row["high"],
        }
        for row in ordered
    ]


def slice_tables(rows: Iterable[Row]) -> Iterable[tuple[str, Lines]]:
    """For each kind compared on parts of its tasks a heading, and for each arm its value of every part, best first."""
    found = list(rows)
    for kind in dict.fromkeys(row["kind"] for row in found):
        metric = main_metric([row for row in found if row["kind"] == kind])
        mine = [row for row in found if (row["kind"], row["metric"]) == (kind, metric)]
        parts = {
            row["slice"]: f"{row['slice'].removeprefix('history ')} ({row['task_count']:,})"
            for row in mine
            if row["slice"] not in (None, ALL)
        }
        if len(parts) < 2:
            continue
        values = {(row["arm"], row["slice"]): row["value"] for row in mine}
        best_first = sorted(mine, key=lambda row: row["value"], reverse=metric not in ERRORS)
        lines: list[dict[str, object]] = [
            {
                "answered with": ARMS.get(arm, arm),
                "arm": arm,
                **{parts[part]: values.get((arm, part)) for part in parts},
            }
            for arm in dict.fromkeys(row["arm"] for row in best_first if row["slice"] == ALL)
        ]
        yield f"{kind_words(kind)} · {metric_words(metric).name} by items of the history, or part (tasks)", lines


def verdicts_of(rows: Iterable[Row], user_counts: Mapping[str, int]) -> dict[str, str]:
    """A sentence for each kind."""
    whole = [row for row in rows if row["slice"] in (None, "all")]
    return {kind_words(kind): found.sentence for kind, found in kind_verdicts(whole, user_counts).items()}
