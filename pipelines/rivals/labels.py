"""Answer closed tasks from a user's past labels, without a language model.

past labels ──────────────────────────────▶ the most frequent            label_mode
past labels, cosines with the task ───────▶ weighted vote                label_vote
task vector, shares of the past labels ───▶ logistic regression          label_regression
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedder.encoder import TextEncoder
from embedder.errors import InputMissing
from embedder.personas import FloatArray
from pipelines.examples import Target
from pipelines.rivals.cases import Case
from pipelines.rivals.extra import required

SHARPNESS = 20.0
"""Of the vote: an item whose cosine is .1 nearer to the task weighs e^2 times as much."""


def most_frequent(labels: Sequence[str]) -> str:
    """Of equally frequent labels the one seen last; "" without any."""
    counts, last = Counter(labels), {label: at for at, label in enumerate(labels)}
    return max(counts, key=lambda label: (counts[label], last[label]), default="")


def mode_answers(cases: Sequence[Case], fallback: str) -> list[str]:
    """Each user's most frequent label; `fallback` for one without any."""
    return [most_frequent([item.output or "" for item in case.labelled]) or fallback for case in cases]


def vote_answers(cases: Sequence[Case], fallback: str) -> list[str]:
    """The label with most weight, weights being softmax(20 * cosine of item and task); of equal ones the oldest."""
    return [vote(case) or fallback for case in cases]


def vote(case: Case) -> str:
    """The label a user's past items vote for; "" without any."""
    items = case.labelled
    if not items:
        return ""
    scores = SHARPNESS * (np.stack([item.vector for item in items]) @ case.personal.task).astype(np.float64)
    weights = np.exp(scores - scores.max())
    totals: dict[str, float] = {}
    for item, weight in zip(items, weights, strict=True):
        totals[item.output or ""] = totals.get(item.output or "", 0.0) + float(weight)
    return max(totals, key=lambda label: totals[label])


@dataclass(frozen=True, eq=False)
class LabelRegression:
    """A logistic regression for all users.

    Features: the task's vector (D,), then for each label its share among the user's past ones (L,), all 0 without any.
    """

    model: Any
    labels: Sequence[str]
    seconds: float
    """Time of the fit, encoding included."""

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return int(self.model.coef_.size + self.model.intercept_.size)

    @classmethod
    def fit(cls, targets: Sequence[Target], encoder: TextEncoder) -> "LabelRegression":
        """Fit to what users produced, each with the labels strictly before it.

        The settings are scikit-learn's defaults (L2, C = 1), chosen on nothing; more iterations, so that it converges.

        Raises:
            InputMissing: if the histories hold fewer than two labels, or scikit-learn is not installed.
        """
        linear_model = required("sklearn.linear_model")
        start = time.perf_counter()
        labels = sorted({target.target for target in targets})
        if len(labels) < 2:
            raise InputMissing("label_regression needs two labels in the histories: leave it out with --rivals")
        vectors = encoder.encode([target.query for target in targets], is_query=True)
        features = np.hstack([vectors, earlier_shares(targets, labels)])
        model = linear_model.LogisticRegression(max_iter=2_000).fit(features, [target.target for target in targets])
        return cls(model, labels, time.perf_counter() - start)

    def answers(self, cases: Sequence[Case]) -> list[str]:
        """The most probable label that the task allows."""
        pasts = [[item.output or "" for item in case.labelled] for case in cases]
        vectors = np.stack([case.personal.task for case in cases])
        shares = np.stack([label_shares(past, self.labels) for past in pasts])
        probabilities = self.model.predict_proba(np.hstack([vectors, shares]))
        names = [str(name) for name in self.model.classes_]
        return [
            best_allowed(names, row, case.task.choices or ()) for case, row in zip(cases, probabilities, strict=True)
        ]


def best_allowed(names: Sequence[str], probabilities: FloatArray, choices: Sequence[str]) -> str:
    """The most probable of the names that are choices; the first choice if none is."""
    allowed = [at for at, name in enumerate(names) if not choices or name in choices]
    return names[max(allowed, key=lambda at: float(probabilities[at]))] if allowed else choices[0]


def earlier_shares(targets: Sequence[Target], labels: Sequence[str]) -> FloatArray:
    """(N, L) for each target the shares of the labels that its user gave strictly before it."""
    column = {label: at for at, label in enumerate(labels)}
    order = sorted(range(len(targets)), key=lambda at: (targets[at].user_id, targets[at].moment))
    found = np.zeros((len(targets), len(labels)), np.float32)
    counts, waiting, user, moment = np.zeros(len(labels)), list[int](), "", None
    for at in order:
        target = targets[at]
        if target.user_id != user:
            counts, waiting, user, moment = np.zeros(len(labels)), [], target.user_id, None
        if target.moment != moment:  # labels given at one moment do not know of each other
            np.add.at(counts, waiting, 1)
            waiting, moment = [], target.moment
        found[at] = counts / max(counts.sum(), 1)
        waiting.append(column[target.target])
    return found


def label_shares(past: Sequence[str], labels: Sequence[str]) -> FloatArray:
    """(L,) share of each label among the past ones."""
    counts = Counter(past)
    known = np.array([counts[label] for label in labels], np.float32)
    return known / max(known.sum(), 1)
