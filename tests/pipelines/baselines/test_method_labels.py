import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from method_cases import CHOICES, case, item

from embedder.encoder import TextEncoder
from embedder.errors import InputMissing
from llm_jobs.kinds import Kind, load_kinds
from pipelines.baselines.cases import Case
from pipelines.baselines.labels import LabelRegression, best_allowed, mode_answers, most_frequent, vote_answers
from pipelines.examples import ChoiceLists, examples_of, history_targets

labels = st.lists(st.sampled_from([*CHOICES, "elsewhere", None]), max_size=12)
START = datetime(2026, 1, 1, tzinfo=UTC)


@given(labels)
def test_the_mode_is_the_most_frequent_allowed_label_or_everybodys(outputs: list[str | None]) -> None:
    found = mode_answers([case([item(at, "x", output) for at, output in enumerate(outputs)])], "common")[0]
    counts = Counter(output for output in outputs if output in CHOICES)
    if not counts:
        assert found == "red"  # the first choice, as everybody's is none
    else:
        best = [label for label, count in counts.items() if count == max(counts.values())]
        assert found == max(best, key=lambda label: len(outputs) - outputs[::-1].index(label))


def test_without_labels_there_is_no_mode() -> None:
    assert most_frequent([]) == ""


@given(st.lists(st.tuples(st.sampled_from(CHOICES), st.floats(-3, 3)), max_size=10), st.floats(-3, 3))
def test_the_vote_is_the_softmax_of_twenty_times_the_cosine(past: list[tuple[str, float]], angle: float) -> None:
    items = [item(at, "x", label, (math.cos(turn), math.sin(turn))) for at, (label, turn) in enumerate(past)]
    found = vote_answers([case(items, task=(math.cos(angle), math.sin(angle)))], "Green")[0]
    weights = [math.exp(20 * math.cos(turn - angle)) for _, turn in past]
    totals = {
        label: sum(weight for weight, (name, _) in zip(weights, past, strict=True) if name == label)
        for label, _ in past
    }
    if not past:
        assert found == "green"
    else:
        assert totals[found] == pytest.approx(max(totals.values()), rel=1e-4)


def test_the_regression_is_scikit_learns_on_text_past_labels_and_their_vote(encoder_folder: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    encoder = TextEncoder.from_pretrained(str(encoder_folder))
    kind = replace(load_kinds()["LaMP_2N"], choices=CHOICES)
    rows = [note(user, day, CHOICES[(day + shift) % 3]) for shift, user in enumerate("abc") for day in range(8)]
    targets = list(history_targets(rows, kind, ChoiceLists([], kind), set()).found)
    regression = LabelRegression.fit(examples_of(targets, rows, {kind.name: kind}, encoder))
    names = sorted(CHOICES)
    queries = encoder.encode([one.query for one in targets], is_query=True)

    def seen(query: np.ndarray, past: list[dict[str, Any]]) -> list[float]:
        outputs = [row["output"] for row in past]
        vectors = [encoder.encode([kind.encoder_text(row["text"], row["output"])])[0] for row in past]
        weights = [math.exp(20 * float(vector @ query)) for vector in vectors]
        votes = [sum(w for w, output in zip(weights, outputs, strict=True) if output == name) for name in names]
        shares = [outputs.count(name) / max(1, len(past)) for name in names]
        return [*query, *shares, *(vote / sum(weights) if weights else 0.0 for vote in votes)]

    pasts = [
        [
            row
            for row in rows
            if row["kind"] == kind.name and row["user_id"] == own.user_id and row["posted_at"] < own.moment
        ]
        for own in targets
    ]
    fitted = np.array([seen(*pair) for pair in zip(queries, pasts, strict=True)], np.float32)
    oracle = LogisticRegression(max_iter=2_000).fit(fitted, [one.target for one in targets])
    assert regression.parameters == 3 * (encoder.width + 6) + 3
    np.testing.assert_allclose(regression.model.coef_, oracle.coef_, atol=1e-3)
    cases = [case_of(query, past, kind, encoder) for query, past in zip(queries, pasts, strict=True)]
    assert regression.answers(cases) == list(oracle.predict(fitted))


def note(user: str, number: int, label: str) -> dict[str, Any]:
    """An item; two of a user are of the same moment, so that neither is the other's past."""
    text, moment = f"{user} {label} {number}", START + timedelta(days=number // 2)
    return {
        "user_id": user,
        "item_id": f"{user}{number}",
        "kind": "LaMP_2N",
        "text": text,
        "output": label,
        "posted_at": moment,
    }


def case_of(query: np.ndarray, past: list[dict[str, Any]], kind: Kind, encoder: TextEncoder) -> Case:
    texts = [kind.encoder_text(row["text"], row["output"]) for row in past]
    items = [
        item(at, row["text"], row["output"], encoder.encode([text])[0])
        for at, (row, text) in enumerate(zip(past, texts, strict=True))
    ]
    made = case(items)
    return replace(made, personal=replace(made.personal, task=query))


def test_only_choices_are_answered() -> None:
    assert best_allowed(["a", "b", "c"], np.array([0.5, 0.2, 0.3]), ("b", "c"), is_scale=False) == "c"
    assert best_allowed(["a"], np.array([1.0]), ("x", "y"), is_scale=False) == "x"
    assert best_allowed(["a", "b"], np.array([0.2, 0.8]), (), is_scale=False) == "b"


def test_past_labels_count_in_the_spelling_of_the_tasks_own_choices() -> None:
    items = [item(1, "x", "red"), item(2, "x", " Blue"), item(3, "x", "BLUE"), item(4, "x", "elsewhere")]
    assert mode_answers([case(items)], "red") == vote_answers([case(items)], "red") == ["blue"]
    assert best_allowed(["red", "Blue"], np.array([0.2, 0.8]), CHOICES, is_scale=False) == "blue"


def test_one_label_is_no_regression(encoder_folder: Path) -> None:
    kind, rows = load_kinds()["LaMP_2N"], [note("a", 1, "red")]
    targets = history_targets(rows, kind, ChoiceLists([], kind), set()).found
    encoder = TextEncoder.from_pretrained(str(encoder_folder))
    with pytest.raises(InputMissing, match="two labels"):
        LabelRegression.fit(examples_of(targets, rows, {kind.name: kind}, encoder))
