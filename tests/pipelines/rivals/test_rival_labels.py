import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rival_cases import CHOICES, case, item

from embedder.encoder import TextEncoder
from embedder.errors import InputMissing
from pipelines.examples import Target
from pipelines.rivals.labels import (
    LabelRegression,
    best_allowed,
    earlier_shares,
    label_shares,
    mode_answers,
    most_frequent,
    vote_answers,
)

labels = st.lists(st.sampled_from([*CHOICES, "elsewhere", None]), max_size=12)
START = datetime(2026, 1, 1, tzinfo=UTC)


@given(labels)
def test_the_mode_is_the_most_frequent_allowed_label_or_everybodys(outputs: list[str | None]) -> None:
    found = mode_answers([case([item(at, "x", output) for at, output in enumerate(outputs)])], "common")[0]
    counts = Counter(output for output in outputs if output in CHOICES)
    if not counts:
        assert found == "common"
    else:
        best = [label for label, count in counts.items() if count == max(counts.values())]
        assert found == max(best, key=lambda label: len(outputs) - outputs[::-1].index(label))


def test_without_labels_there_is_no_mode() -> None:
    assert most_frequent([]) == ""


@given(st.lists(st.tuples(st.sampled_from(CHOICES), st.floats(-3, 3)), max_size=10), st.floats(-3, 3))
def test_the_vote_is_the_softmax_of_twenty_times_the_cosine(past: list[tuple[str, float]], angle: float) -> None:
    items = [item(at, "x", label, (math.cos(turn), math.sin(turn))) for at, (label, turn) in enumerate(past)]
    found = vote_answers([case(items, task=(math.cos(angle), math.sin(angle)))], "common")[0]
    weights = [math.exp(20 * math.cos(turn - angle)) for _, turn in past]
    totals = {
        label: sum(weight for weight, (name, _) in zip(weights, past, strict=True) if name == label)
        for label, _ in past
    }
    if not past:
        assert found == "common"
    else:
        assert totals[found] == pytest.approx(max(totals.values()), rel=1e-4)


def target(user: str, day: int, label: str) -> Target:
    return Target(user, "prompt", label, f"{user} {label} {day}", START + timedelta(days=day))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.sampled_from(CHOICES)), max_size=12))
def test_a_target_knows_the_shares_of_its_users_strictly_earlier_labels(given: list[tuple[str, int, str]]) -> None:
    targets = [target(*parts) for parts in given]
    found = earlier_shares(targets, CHOICES)
    for row, own in zip(found, targets, strict=True):
        past = [other.target for other in targets if other.user_id == own.user_id and other.moment < own.moment]
        assert row == pytest.approx([past.count(label) / max(1, len(past)) for label in CHOICES])
        assert row == pytest.approx(label_shares(past, CHOICES))


def test_the_regression_is_scikit_learns_on_text_and_past_labels(encoder_folder: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    encoder = TextEncoder.from_pretrained(str(encoder_folder))
    targets = [target(user, day, CHOICES[(day + shift) % 3]) for shift, user in enumerate("abc") for day in range(8)]
    regression = LabelRegression.fit(targets, encoder)
    texts = encoder.encode([one.query for one in targets], is_query=True)
    names = sorted(CHOICES)
    rows = []
    for text, own in zip(texts, targets, strict=True):
        past = [other.target for other in targets if other.user_id == own.user_id and other.moment < own.moment]
        rows.append([*text, *(past.count(name) / max(1, len(past)) for name in names)])
    oracle = LogisticRegression(max_iter=2_000).fit(np.array(rows, np.float32), [one.target for one in targets])
    assert regression.parameters == 3 * (encoder.width + 3) + 3
    cases = [case([item(at, "x", label) for at, label in enumerate(past)]) for past in ((), ("red",) * 3, CHOICES)]
    cases = [
        replace(one, personal=replace(one.personal, task=text)) for one, text in zip(cases, texts[:3], strict=True)
    ]
    features = [[*one.personal.task, *label_shares([past.output or "" for past in one.items], names)] for one in cases]
    assert regression.answers(cases) == list(oracle.predict(np.array(features, np.float32)))


def test_only_choices_are_answered() -> None:
    assert best_allowed(["a", "b", "c"], np.array([0.5, 0.2, 0.3]), ("b", "c")) == "c"
    assert best_allowed(["a"], np.array([1.0]), ("x", "y")) == "x"


def test_one_label_is_no_regression(encoder_folder: Path) -> None:
    with pytest.raises(InputMissing, match="two labels"):
        LabelRegression.fit([target("a", 1, "red")], TextEncoder.from_pretrained(str(encoder_folder)))
