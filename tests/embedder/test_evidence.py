from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from embedder.evidence import COLUMNS, NEWEST, SHARPNESSES, label_evidence
from embedder.histories import NEWEST_LABELS, History, PastLabels
from embedder.pointing import FEATURES, UNKNOWN, ChoiceBatch, choice_features

CHOICES = ("red", "blue", "green")
WIDTH = 6
"""Not 5: there OpenBLAS 0.3.31 (AVX-512) reads a register nobody wrote; the sum is right, the warning is chance."""
outputs = st.lists(st.sampled_from(["red", "blue", "white", None]), max_size=40)


def unit_rows(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slow_row(task: np.ndarray, vectors: np.ndarray, labels: Sequence[str | None], choice: str) -> list[float]:
    """The numbers of one choice, item by item."""
    ours = [at for at, label in enumerate(labels) if label in CHOICES]
    own = [at for at in ours if labels[at] == choice]
    row = [float(len(own))]
    for beta in SHARPNESSES:
        weights = {at: float(np.exp(beta * (vectors[at] @ task))) for at in ours}
        row.append(sum(weights[at] for at in own) / sum(weights.values()) if ours else 0.0)
    row.append(float(np.mean([vectors[at] @ task for at in own])) if own else 0.0)
    remembered = [label for label in labels if label is not None][-NEWEST_LABELS:]  # of any name
    named = [label for label in remembered if label in CHOICES]
    for count in NEWEST:
        newest = named[-count:]
        row.append(newest.count(choice) / len(newest) if newest else 0.0)
    return [*row, float(bool(named) and named[-1] == choice)]


@example(["red"] * 29 + ["white", "blue"], 0)
@example(["red"] + ["white"] * 30, 0)
@given(outputs, st.integers(0, 1000))
def test_a_history_says_of_each_choice_what_its_items_say_one_by_one(labels: list[str | None], seed: int) -> None:
    vectors, task = unit_rows(len(labels), seed), unit_rows(1, seed + 1)[0]
    found = label_evidence(task, History.of_items(vectors, labels), CHOICES)
    expected = [slow_row(task, vectors, labels, choice) for choice in CHOICES]
    np.testing.assert_allclose(found.choices, expected, rtol=1e-4, atol=1e-5)
    ours = [at for at, label in enumerate(labels) if label in CHOICES]
    assert found.labelled == len(ours)
    assert found.nearest == pytest.approx(max((float(vectors[at] @ task) for at in ours), default=0.0), abs=1e-6)
    assert found.choices.shape == (3, len(COLUMNS))


@given(st.permutations(CHOICES), st.integers(0, 1000))
def test_choices_are_told_apart_by_what_was_done_with_them_and_not_by_name(order: list[str], seed: int) -> None:
    vectors, task = unit_rows(6, seed), unit_rows(1, seed + 1)[0]
    labels = ["red", "red", "blue", None, "green", "blue"]
    renamed = [dict(zip(CHOICES, order, strict=True)).get(label) if label else None for label in labels]
    here = label_evidence(task, History.of_items(vectors, labels), CHOICES)
    there = label_evidence(task, History.of_items(vectors, renamed), order)
    np.testing.assert_array_equal(here.choices, there.choices)


@given(outputs)
def test_the_labels_of_items_and_the_newest_in_order(labels: list[str | None]) -> None:
    past = PastLabels.of_items(labels)
    for row, label in zip(past.shares, labels, strict=True):
        assert dict(zip(past.names, row, strict=True)) == {name: float(name == label) for name in past.names}
    newest = [label for label in labels if label is not None][-NEWEST_LABELS:]
    assert [past.names[place] for place in past.newest] == newest


def test_a_vector_of_several_items_votes_for_each_of_its_labels() -> None:
    vectors, task = unit_rows(2, 0), unit_rows(1, 1)[0]
    past = PastLabels(("red", "blue"), np.array([[0.75, 0.25], [0, 1]], np.float32), (1, 0))
    merged = label_evidence(task, History.of(vectors, np.array([4, 2], np.float32), past), CHOICES)
    single = label_evidence(
        task, History.of_items(vectors[[0, 0, 0, 0, 1, 1]], ["red", "red", "red", "blue", "blue", "blue"]), CHOICES
    )
    same = [at for at, name in enumerate(COLUMNS) if not name.startswith(("newest", "last"))]
    np.testing.assert_allclose(merged.choices[:, same], single.choices[:, same], rtol=1e-5)


def test_labels_that_name_one_choice_are_added_up() -> None:
    vectors, task = unit_rows(3, 0), unit_rows(1, 1)[0]
    history = History.of_items(vectors, ["red", "Red", "blue"])
    history = history._replace(past=history.past._replace(names=("red", "red", "blue")))
    found, wanted = (
        label_evidence(task, one, CHOICES) for one in (history, History.of_items(vectors, ["red", "red", "blue"]))
    )
    np.testing.assert_allclose(found.choices, wanted.choices)


def test_without_a_history_the_features_are_everybodys() -> None:
    empty = label_evidence(unit_rows(1, 0)[0], History.empty(WIDTH), CHOICES)
    text, prior = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.2, 0.2, 0.6]]).log()
    features = choice_features(ChoiceBatch.of([empty], torch.zeros(1, 3)), text, prior)
    assert features.shape == (1, 3, FEATURES)
    assert features.isfinite().all()
    torch.testing.assert_close(features[..., 4:10], prior[..., None].expand(1, 3, 6))
    unknown = choice_features(ChoiceBatch.of([empty], torch.zeros(1, 3)), torch.full((1, 3), UNKNOWN), prior)
    assert (unknown[..., 3] == 1).all()
    assert (features[..., 3] == 0).all()
