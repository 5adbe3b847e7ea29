"""One table per kind: every arm in every slice, with its interval and its paired difference.

    arms ─▶ answers of a slice ─┬─▶ metrics, 95% intervals
                                └─▶ own against the best baseline, every baseline against own, over the same users

The difference of a row is its own value less that of the arm in `compared_with`: of `own` the best baseline in that
metric and slice, of every baseline `own`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from llm_jobs.kinds import Kind
from llm_jobs.metrics import MetricValue, Scored, evaluate_answers, paired_difference
from pipelines.baselines.answering import Arm
from pipelines.baselines.authorship import REFERENCE
from pipelines.baselines.registry import MET
from pipelines.verdicts.words import ERRORS

OWN: Final = "own"


def comparison_rows(
    kind: Kind, arms: Mapping[str, Arm], members: Mapping[str, Sequence[str]], labels: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Rows of `evaluations` of one kind, apart from the run.

    Args:
        kind: how answers are scored.
        arms: the answers by the name of their arm, `own` among them.
        members: the tasks of each slice. An arm is in a slice if it answered all of its tasks.
        labels: the labels that F1 is averaged over, or the scale of a rating.
    """
    rows = list[dict[str, Any]]()
    for name, tasks in members.items():
        if not tasks:
            continue
        answers = {
            arm: [scored for task in tasks for scored in found.scored[task]]
            for arm, found in arms.items()
            if all(task in found.scored for task in tasks)
        }
        for row in slice_rows(kind, answers, labels):
            rows.append({"kind": kind.name, "slice": name, "task_count": len(tasks), **row, **arms[row["arm"]].costs})
    return rows


def slice_rows(
    kind: Kind, answers: Mapping[str, Sequence[Scored]], labels: Sequence[str] | None
) -> list[dict[str, Any]]:
    """One row for each arm and metric: value, interval and difference."""
    values = {
        arm: {value.metric: value for value in evaluate_answers(kind.metric, scored, labels)}
        for arm, scored in answers.items()
    }
    rows = list[dict[str, Any]]()
    for arm, by_metric in values.items():
        for metric, value in by_metric.items():
            if arm == REFERENCE and metric != "authorship":
                continue
            against = best_baseline(metric, values) if arm == OWN else OWN
            rows.append({"arm": arm, **value._asdict(), "compared_with": against})
    differences = {
        (arm, against): {
            found.metric: found for found in paired_difference(kind.metric, answers[arm], answers[against], labels)
        }
        for arm, against in {(row["arm"], row["compared_with"]) for row in rows if row["compared_with"]}
    }
    for row in rows:
        found = differences.get((row["arm"], row["compared_with"]), {}).get(row["metric"])
        row |= {
            "difference": found and found.value,
            "difference_low": found and found.low,
            "difference_high": found and found.high,
        }
    return rows


def best_baseline(metric: str, values: Mapping[str, Mapping[str, MetricValue]]) -> str | None:
    """The baseline with the best value of a metric; of equal ones the first; None without any."""
    sign = -1 if metric in ERRORS else 1
    baselines = [arm for arm in values if arm not in (OWN, MET, REFERENCE)]
    return max(baselines, key=lambda arm: sign * values[arm][metric].value, default=None)
