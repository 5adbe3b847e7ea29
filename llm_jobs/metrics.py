"""How good a set of answers is: LaMP's metrics, each with a 95% interval over users.

    answers ─▶ sums per user (U, K) ─▶ formula of their total                    = value
                         └───────────▶ totals of 1,000 resamples of the users ─▶ low, high

Every metric is a formula of sums over users: a resample is one row of a matrix product, and no answer is scored twice.
The answers of one user are not independent, so users are resampled, never answers.

Conventions: https://github.com/LaMP-Benchmark/LaMP, eval/evaluation.py.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from embedder.errors import PplugError
from llm_jobs.kinds import Metric

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

RESAMPLES = 1_000
SEED = 0
INTERVAL = (2.5, 97.5)  # percent of the resamples below low, and below high
LARGEST_RATING = 1e100  # beyond it a number is no rating, and its square would not fit a float
DRAWS_AT_ONCE = 4_000_000  # users drawn before they are added up, 8 bytes each: bounds the memory of the bootstrap

Floats = npt.NDArray[np.float64]
Formula = Callable[[Floats], dict[str, Floats]]  # totals (R, K) -> name of a metric -> values (R,)


class Scored(NamedTuple):
    """One answered task that has a reference."""

    user_id: str
    prediction: str
    reference: str


class MetricValue(NamedTuple):
    """One metric with its 95% interval, which always holds the value."""

    metric: str
    value: float
    low: float
    high: float


def evaluate_answers(metric: Metric, answers: Sequence[Scored], labels: Sequence[str] | None) -> list[MetricValue]:
    """Score one arm: [accuracy, f1], [mae, rmse] or [rouge-1, rouge-L]; [] for no answers.

    The order of the answers is irrelevant. An arm that answered each task several times (five random personas) is one
    longer sequence, and its metrics are those of all answers together.

    Args:
        metric: Which pair of metrics the kind uses.
        answers: One per task.
        labels: For accuracy the classes F1 is averaged over; one that no task has counts as 0. For a rating the scale,
            whose lowest or highest label, the worse one, stands in for an answer that is no number. Without labels the
            references are the classes or the scale. ROUGE uses none.

    Raises:
        PplugError: A label or reference of a rating is no number.
    """
    if not answers:
        return []
    sums = _sums_per_user(metric, answers, _labels_or_references(labels, answers))
    return _values_with_intervals(_FORMULAS[metric], sums)


def paired_difference(
    metric: Metric, first: Sequence[Scored], second: Sequence[Scored], labels: Sequence[str] | None
) -> list[MetricValue]:
    """How far `first` is above `second` over the same users: an interval without 0 is a difference; [] for no answers.

    One arm may answer each task several times (five random personas) if it does so for all of them.

    Raises:
        PplugError: The arms do not answer the same tasks, or a label or reference of a rating is no number.
    """
    _check_same_tasks(first, second)
    if not first:
        return []
    known = _labels_or_references(labels, first)
    ours, theirs = (_sums_per_user(metric, arm, known) for arm in (first, second))
    formula, width = _FORMULAS[metric], ours.shape[1]

    def difference(totals: Floats) -> dict[str, Floats]:
        subtracted = formula(totals[:, width:])
        return {name: values - subtracted[name] for name, values in formula(totals[:, :width]).items()}

    return _values_with_intervals(difference, np.hstack([ours, theirs]))


def _check_same_tasks(first: Sequence[Scored], second: Sequence[Scored]) -> None:
    counts, others = (Counter((answer.user_id, answer.reference) for answer in arm) for arm in (first, second))
    for user_id, reference in counts | others:
        key = (user_id, reference)
        if counts[key] * max(1, len(second)) != others[key] * max(1, len(first)):
            raise PplugError(
                f"the two arms do not answer the same tasks: user {user_id!r} with reference {reference!r} has "
                f"{counts[key]} of {len(first)} answers in one and {others[key]} of {len(second)} in the other: "
                "answer both again with `pplug evaluate --controls`"
            )


def _labels_or_references(labels: Sequence[str] | None, answers: Sequence[Scored]) -> tuple[str, ...]:
    texts = labels or sorted({answer.reference for answer in answers})
    return tuple(dict.fromkeys(text.strip() for text in texts))


def _sums_per_user(metric: Metric, answers: Sequence[Scored], labels: tuple[str, ...]) -> Floats:
    """(U, K), users in the order of their ids; sorting the answers makes float sums the same in any order."""
    by_user = groupby(sorted(answers), key=lambda answer: answer.user_id)
    return np.array([_SUMS[metric](list(group), labels) for _, group in by_user], dtype=np.float64)


def _values_with_intervals(formula: Formula, sums: Floats) -> list[MetricValue]:
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
    """The totals (R, K) of RESAMPLES draws of U users with replacement, in blocks of R; the same in every run."""
    users = len(sums)
    random = np.random.default_rng(SEED)
    block = max(1, DRAWS_AT_ONCE // users)
    for start in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - start)
        drawn = random.integers(users, size=(rows, users)) + users * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)  # how often each user was drawn
        yield times.astype(np.float64) @ sums


def _accuracy_sums(answers: Sequence[Scored], labels: tuple[str, ...]) -> list[float]:
    """[answers, right answers, and per label: right, predicted, referenced]; exact match after strip."""
    pairs = [(answer.prediction.strip(), answer.reference.strip()) for answer in answers]
    predicted = Counter(prediction for prediction, _ in pairs)
    referenced = Counter(reference for _, reference in pairs)
    right = Counter(prediction for prediction, reference in pairs if prediction == reference)
    per_label = [[counts[label] for label in labels] for counts in (right, predicted, referenced)]
    return [len(pairs), sum(per_label[0]), *per_label[0], *per_label[1], *per_label[2]]


def _accuracy_and_f1(totals: Floats) -> dict[str, Floats]:
    """Macro-F1 over all labels; one that is neither predicted nor referenced counts as 0."""
    right, predicted, referenced = np.split(totals[:, 2:], 3, axis=1)  # (R, labels) each
    occurrences = predicted + referenced
    f1 = np.divide(2 * right, occurrences, out=np.zeros_like(right), where=occurrences > 0)
    return {"accuracy": totals[:, 1] / totals[:, 0], "f1": f1.mean(1)}


def _rating_sums(answers: Sequence[Scored], labels: tuple[str, ...]) -> list[float]:
    """[answers, absolute errors, squared errors]."""
    scale = [_known_rating(label, "label") for label in labels]
    errors = [_rating_error(answer, min(scale), max(scale)) for answer in answers]
    return [len(errors), math.fsum(abs(error) for error in errors), math.fsum(error * error for error in errors)]


def _rating_error(answer: Scored, lowest: float, highest: float) -> float:
    """Prediction minus reference; what is no number becomes the worst label, at equal distance the highest."""
    reference = _known_rating(answer.reference, "reference")
    worst = lowest if abs(lowest - reference) > abs(highest - reference) else highest
    prediction = _rating(answer.prediction)
    return (worst if prediction is None else prediction) - reference


def _known_rating(text: str, what: str) -> float:
    if (rating := _rating(text)) is None:
        raise PplugError(f"the {what} {text!r} of a rating is no number: correct it and run `pplug ingest tasks` again")
    return rating


def _rating(text: str) -> float | None:
    """The number, or None; nan and inf, which `float` reads, are no ratings either."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) <= LARGEST_RATING else None


def _mae_and_rmse(totals: Floats) -> dict[str, Floats]:
    return {"mae": totals[:, 1] / totals[:, 0], "rmse": np.sqrt(totals[:, 2] / totals[:, 0])}


def _rouge_sums(answers: Sequence[Scored], labels: tuple[str, ...]) -> list[float]:
    """[answers, ROUGE-1 F-measures, ROUGE-L F-measures]; the tokens are runs of [a-z0-9] in the lower-cased text."""
    scores = [_rouge_scorer().score(answer.reference, answer.prediction) for answer in answers]
    return [len(scores), *(math.fsum(score[name].fmeasure for score in scores) for name in ("rouge1", "rougeL"))]


@cache
def _rouge_scorer() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer  # takes seconds: it loads nltk

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)


def _rouge(totals: Floats) -> dict[str, Floats]:
    return {"rouge-1": totals[:, 1] / totals[:, 0], "rouge-L": totals[:, 2] / totals[:, 0]}


_SUMS: dict[Metric, Callable[[Sequence[Scored], tuple[str, ...]], list[float]]] = {
    Metric.ACCURACY: _accuracy_sums,
    Metric.RATING: _rating_sums,
    Metric.ROUGE: _rouge_sums,
}
_FORMULAS: dict[Metric, Formula] = {
    Metric.ACCURACY: _accuracy_and_f1,
    Metric.RATING: _mae_and_rmse,
    Metric.ROUGE: _rouge,
}
