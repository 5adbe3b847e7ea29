"""How good a set of answers is: LaMP's metrics, each with a 95% interval over users.

    answers ─▶ sums per user (U, K) ─▶ formula of their total                    = value
                         └───────────▶ totals of 1,000 resamples of the users ─▶ low, high

Every metric is a formula of sums over users: a resample is one row of a matrix product, and no answer is scored twice.
The answers of one user are not independent, so users are resampled, never answers.

A metric's name says what it is of. `f1` is the mean over the labels that every task can be answered with;
`f1-occurring`, where tasks differ in their choices or have none, over the labels that are some task's reference.
`rouge-1` and `rouge-L` are the official ones, left out where they mean nothing; `rouge-1-unicode` and
`rouge-L-unicode` count the words of any script (rouge.py).

Conventions: https://github.com/LaMP-Benchmark/LaMP, eval/evaluation.py.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from embedder.errors import PplugError
from llm_jobs.kinds import Metric
from llm_jobs.labels import rating_of, spelled_as
from llm_jobs.rouge import is_official, rouge

RESAMPLES = 1_000
SEED = 0
INTERVAL = (2.5, 97.5)  # percent of the resamples below low, and below high
UNKNOWN = -1.0  # the authorship of an answer that nobody looked at
DRAWS_AT_ONCE = 4_000_000  # users drawn before they are added up, 8 bytes each: bounds the memory of the bootstrap

Floats = npt.NDArray[np.float64]
Sums = Callable[[Sequence["Scored"]], list[float]]  # the answers of one user -> (K,)
Formula = Callable[[Floats], dict[str, Floats]]  # totals (R, K) -> name of a metric -> values (R,)
Measure = tuple[Sums, Formula]  # how answers become metrics


class Scored(NamedTuple):
    """One answered task that has a reference."""

    user_id: str
    prediction: str
    reference: str
    choices: tuple[str, ...] = ()  # what this task could be answered with; empty for free text
    authorship: float = UNKNOWN
    """Of a free answer, the share of another user's answers to the same task that sound less like this user."""

    @classmethod
    def of(cls, user_id: str, prediction: str | None, reference: str, choices: Sequence[str] | None) -> Self:
        """Pair an answer, "" for a task that has none, with the reference, spelled as the choice that it names."""
        return cls(user_id, prediction or "", spelled_as(reference, choices), tuple(choices or ()))


class MetricValue(NamedTuple):
    """One metric with its 95% interval, which always holds the value."""

    metric: str
    value: float
    low: float
    high: float


def evaluate_answers(metric: Metric, answers: Sequence[Scored], labels: Sequence[str] | None) -> list[MetricValue]:
    """Score one arm: accuracy and F1, MAE and RMSE, or ROUGE-1 and ROUGE-L; [] for no answers.

    The order of the answers is irrelevant. An arm that answered each task several times (five random personas) is one
    longer sequence, and its metrics are those of all answers together.

    Args:
        metric: Which metrics the kind uses.
        answers: One per task.
        labels: What all tasks can be answered with (`llm_jobs.labels.fixed_labels`): the classes that F1 is averaged
            over, where one that no task has counts as 0, or the scale of a rating. None: the references are the
            classes; and the scale, for a task that has no choices of its own. ROUGE uses none. An answer that is no
            number counts as the lowest or the highest rating of its scale, the worse of the two.

    Raises:
        PplugError: A label or reference of a rating is no number.
    """
    if not answers:
        return []
    sums, formula = _MEASURES[metric](answers, labels)
    return values_with_intervals(formula, _sums_per_user(sums, answers))


def paired_difference(
    metric: Metric, first: Sequence[Scored], second: Sequence[Scored], labels: Sequence[str] | None
) -> list[MetricValue]:
    """Measure how far `first` is above `second` over the same users: an interval without 0 is one; [] for no answers.

    One arm may answer each task several times (five random personas) if it does so for all of them.

    Raises:
        PplugError: The arms do not answer the same tasks, or a label or reference of a rating is no number.
    """
    _check_same_tasks(first, second)
    if not first:
        return []
    sums, formula = _MEASURES[metric](first, labels)  # the references are those of the second arm, too
    ours, theirs = (_sums_per_user(sums, arm) for arm in (first, second))
    width = ours.shape[1]

    def difference(totals: Floats) -> dict[str, Floats]:
        subtracted = formula(totals[:, width:])
        return {name: values - subtracted[name] for name, values in formula(totals[:, :width]).items()}

    return values_with_intervals(difference, np.hstack([ours, theirs]))


def _check_same_tasks(first: Sequence[Scored], second: Sequence[Scored]) -> None:
    counts, others = (Counter((answer.user_id, answer.reference) for answer in arm) for arm in (first, second))
    for key in counts | others:
        if counts[key] * max(1, len(second)) != others[key] * max(1, len(first)):
            raise PplugError(
                "the two arms do not answer the same tasks: a user has, of one reference, "
                f"{counts[key]} of {len(first)} answers in one and {others[key]} of {len(second)} in the other: "
                "answer both again with `pplug evaluate --controls`"
            )


def _sums_per_user(sums: Sums, answers: Sequence[Scored]) -> Floats:
    """Add up answers by user, in the order of ids: (U, K); sorting answers makes float sums the same in any order."""
    by_user = groupby(sorted(answers), key=lambda answer: answer.user_id)
    return np.array([sums(list(group)) for _, group in by_user], dtype=np.float64)


def values_with_intervals(formula: Formula, sums: Floats) -> list[MetricValue]:
    """Percentile bootstrap, widened to hold the value.

    A resample has fewer classes than the whole, so the value of macro-F1 can lie above every one of them.
    """
    values = formula(sums.sum(0, keepdims=True))
    resampled = [formula(totals) for totals in _resampled_totals(sums)]
    results: list[MetricValue] = []
    for name, (value,) in values.items():
        low, high = np.percentile(np.concatenate([part[name] for part in resampled]), INTERVAL)
        results.append(MetricValue(name, float(value), float(min(low, value)), float(max(high, value))))
    return results


def _resampled_totals(sums: Floats) -> Iterator[Floats]:
    """Draw the totals (R, K) of RESAMPLES draws of U users with replacement, in blocks of R; the same in every run."""
    users = len(sums)
    random = np.random.default_rng(SEED)
    block = max(1, DRAWS_AT_ONCE // users)
    for start in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - start)
        drawn = random.integers(users, size=(rows, users)) + users * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)  # how often each user was drawn
        yield times.astype(np.float64) @ sums


def _references(answers: Sequence[Scored]) -> tuple[str, ...]:
    return tuple(sorted({answer.reference.strip() for answer in answers}))


def _accuracy(answers: Sequence[Scored], labels: Sequence[str] | None) -> Measure:
    """Accuracy of all answers, and macro-F1 over the labels, or over the references."""
    classes = tuple(dict.fromkeys(label.strip() for label in labels)) if labels else _references(answers)
    return partial(_label_sums, classes), partial(_accuracy_and_f1, "f1" if labels else "f1-occurring")


def _label_sums(labels: Sequence[str], answers: Sequence[Scored]) -> list[float]:
    """[answers, right answers, and per label: right, predicted, referenced]; exact match after strip."""
    pairs = [(answer.prediction.strip(), answer.reference.strip()) for answer in answers]
    predicted = Counter(prediction for prediction, _ in pairs)
    referenced = Counter(reference for _, reference in pairs)
    right = Counter(prediction for prediction, reference in pairs if prediction == reference)
    per_label = [[counts[label] for label in labels] for counts in (right, predicted, referenced)]
    return [len(pairs), right.total(), *per_label[0], *per_label[1], *per_label[2]]


def _accuracy_and_f1(name: str, totals: Floats) -> dict[str, Floats]:
    """Macro-F1 over all labels; one that is neither predicted nor referenced counts as 0."""
    right, predicted, referenced = np.split(totals[:, 2:], 3, axis=1)  # (R, labels) each
    occurrences = predicted + referenced
    f1 = np.divide(2 * right, occurrences, out=np.zeros_like(right), where=occurrences > 0)
    return {"accuracy": totals[:, 1] / totals[:, 0], name: f1.mean(1)}


def _ratings(answers: Sequence[Scored], labels: Sequence[str] | None) -> Measure:
    """MAE and RMSE; the scale is that of the labels, of the task's own choices, or of the references."""
    shared = labels or _references(answers)

    def sums(mine: Sequence[Scored]) -> list[float]:
        errors = [_rating_error(answer, labels or answer.choices or shared) for answer in mine]
        return [len(errors), math.fsum(abs(error) for error in errors), math.fsum(error * error for error in errors)]

    return sums, _mae_and_rmse


def _range(labels: Sequence[str]) -> tuple[float, float]:
    """Find the lowest and the highest rating of a scale; raises PplugError if a label is no number."""
    ratings = [rating for label in labels if (rating := rating_of(label)) is not None]
    if len(ratings) < len(labels):
        count = len(labels) - len(ratings)
        raise PplugError(f"{count} labels of a rating are no numbers: correct them and run `pplug ingest tasks` again")
    return min(ratings), max(ratings)


def _rating_error(answer: Scored, scale: Sequence[str]) -> float:
    """Subtract the reference from the prediction; what is no number is the worst label, of equals the highest."""
    if (reference := rating_of(answer.reference)) is None:  # a text of the user's, so it is not shown
        raise PplugError("a reference of a rating is no number: correct it and run `pplug ingest tasks` again")
    lowest, highest = _range(scale)
    worst = lowest if abs(lowest - reference) > abs(highest - reference) else highest
    prediction = rating_of(answer.prediction)
    return (worst if prediction is None else prediction) - reference


def _mae_and_rmse(totals: Floats) -> dict[str, Floats]:
    return {"mae": totals[:, 1] / totals[:, 0], "rmse": np.sqrt(totals[:, 2] / totals[:, 0])}


def _overlap(answers: Sequence[Scored], labels: Sequence[str] | None) -> Measure:
    """ROUGE-1 and ROUGE-L: the official ones where they mean something, and those of any script; and authorship."""
    del labels
    tokenizers = ["", "-unicode"] if is_official([answer.reference for answer in answers]) else ["-unicode"]
    names = [f"{name}{which}" for which in tokenizers for name in ("rouge-1", "rouge-L")]
    is_known = any(answer.authorship != UNKNOWN for answer in answers)

    def sums(mine: Sequence[Scored]) -> list[float]:
        """[answers with a known authorship, their sum, answers, and the sum of each F-measure]."""
        scores = [
            [
                score
                for which in tokenizers
                for score in rouge(answer.reference, answer.prediction, is_official=not which)
            ]
            for answer in mine
        ]
        known = [answer.authorship for answer in mine if answer.authorship != UNKNOWN]
        return [len(known), math.fsum(known), len(mine), *map(math.fsum, zip(*scores, strict=True))]

    def means(totals: Floats) -> dict[str, Floats]:
        values = {name: totals[:, at] / totals[:, 2] for at, name in enumerate(names, 3)}
        return values | ({"authorship": totals[:, 1] / totals[:, 0].clip(min=1)} if is_known else {})

    return sums, means


_MEASURES: dict[Metric, Callable[[Sequence[Scored], Sequence[str] | None], Measure]] = {
    Metric.ACCURACY: _accuracy,
    Metric.RATING: _ratings,
    Metric.ROUGE: _overlap,
}
