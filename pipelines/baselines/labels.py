"""Answer closed tasks from a user's past labels, without a language model.

past labels ──────────────────────────────▶ the most frequent            label_mode
past labels, cosines with the task ───────▶ weighted vote                label_vote
task vector, past labels, their vote ─────▶ logistic regression          label_regression
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedder.compact import FloatArray
from embedder.errors import InputMissing
from embedder.evidence import COLUMNS, Evidence, label_evidence
from embedder.histories import History
from llm_jobs.labels import best_label, label_of
from llm_jobs.training.data import Example
from llm_jobs.training.labels import evidence_of, with_past
from pipelines.baselines.cases import Case
from pipelines.baselines.extra import required

ITEMS, VOTE = COLUMNS.index("items"), COLUMNS.index("vote 20")
"""Columns of the evidence: an item whose cosine is .1 nearer to the task weighs e^2 times as much in this vote."""


def most_frequent(labels: Sequence[str]) -> str:
    """Of equally frequent labels the one seen last; "" without any."""
    counts, last = Counter(labels), {label: at for at, label in enumerate(labels)}
    return max(counts, key=lambda label: (counts[label], last[label]), default="")


def mode_answers(cases: Sequence[Case], fallback: str) -> list[str]:
    """Each user's most frequent label; `fallback` for one without any."""
    own = [most_frequent([item.output or "" for item in case.labelled]) for case in cases]
    return [label or allowed(fallback, case) for label, case in zip(own, cases, strict=True)]


def vote_answers(cases: Sequence[Case], fallback: str) -> list[str]:
    """The label with most weight, weights being softmax(20 * cosine of item and task); of equal ones the oldest.

    Of a scale the median.
    """
    found: list[str] = []
    for case in cases:
        names = list(dict.fromkeys(item.output or "" for item in case.labelled)) or [allowed(fallback, case)]
        votes = past_of(case, names).choices[:, VOTE]
        found.append(names[best_label(votes, names, is_scale=case.personal.is_scale)[0]])
    return found


def allowed(fallback: str, case: Case) -> str:
    """Everybody's label in the spelling of the task's choices; the first of these if it is none."""
    choices = case.task.choices
    return (label_of(fallback, choices) or choices[0]) if choices else fallback


def past_of(case: Case, labels: Sequence[str]) -> Evidence:
    """What a case's user has done with labels."""
    items = case.labelled
    vectors = np.array([item.vector for item in items], np.float32).reshape(len(items), case.personal.task.size)
    history = History.of_items(vectors, [item.output for item in items])
    return label_evidence(case.personal.task, history, labels)


@dataclass(frozen=True, eq=False)
class LabelRegression:
    """A logistic regression for all users.

    Features: the task's vector (D,), then for each label its share among the user's past ones (L,) and its share of
    their vote (L,), all 0 without any.
    """

    model: Any
    labels: Sequence[str]
    seconds: float
    """Time of the fit."""

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return int(self.model.coef_.size + self.model.intercept_.size)

    @classmethod
    def fit(cls, examples: Sequence[Example]) -> "LabelRegression":
        """Fit to what users produced, each with the items of its kind strictly before it.

        The settings are scikit-learn's defaults (L2, C = 1), with more iterations, so that it converges. They and the
        features are the best of 32 tried (docs/experiments.md, 2026-11-26).

        Raises:
            InputMissing: if they hold fewer than two labels, or scikit-learn is not installed.
        """
        linear_model, start = required("sklearn.linear_model"), time.perf_counter()
        labels = sorted({example.target for example in examples})
        if len(labels) < 2:
            raise InputMissing("label_regression needs two labels in the histories: leave it out with --methods")
        rows = [
            features(example.task, evidence_of(example, past, labels, None))
            for example, past in with_past(examples, labels)
        ]
        model = linear_model.LogisticRegression(max_iter=2_000).fit(rows, [example.target for example in examples])
        return cls(model, labels, time.perf_counter() - start)

    def answers(self, cases: Sequence[Case]) -> list[str]:
        """The most probable label that the task allows, of a scale the median."""
        rows = [features(case.personal.task, past_of(case, self.labels)) for case in cases]
        probabilities = self.model.predict_proba(np.stack(rows))
        names = [str(name) for name in self.model.classes_]
        return [
            best_allowed(names, row, case.task.choices or (), is_scale=case.personal.is_scale)
            for case, row in zip(cases, probabilities, strict=True)
        ]


def best_allowed(names: Sequence[str], probabilities: FloatArray, choices: Sequence[str], *, is_scale: bool) -> str:
    """The best of the names that are choices, spelled as there; the first choice if none is."""
    known = dict[str, float]()
    for name, one in zip(names, probabilities, strict=True):
        if (label := label_of(name, choices) if choices else name) is not None:
            known[label] = known.get(label, 0.0) + float(one)
    if not known:
        return choices[0]
    best, _ = best_label(np.array(list(known.values())), list(known), is_scale=is_scale)
    return list(known)[best]


def features(task: FloatArray, past: Evidence) -> FloatArray:
    """(D + 2 L,) what `LabelRegression` sees of a task and of the user's past items."""
    shares = past.choices[:, ITEMS] / max(1.0, past.labelled)
    return np.concatenate([task, shares, past.choices[:, VOTE]])
