from datetime import UTC, datetime

import pytest

from llm_jobs.kinds import load_kinds
from pipelines.examples import Target, Targets
from pipelines.train import TrainingData

KINDS = load_kinds()


@pytest.mark.parametrize(
    ("kind", "choices", "outputs", "labels"),
    [
        ("LaMP_3", ["1", "2"], ["1", "2", "3"], ("1", "2")),
        ("LaMP_3", ["1", "2"], ["1.0", "2.0", "1"], ()),  # spelled otherwise: the scores would mean nothing
        ("LaMP_4", None, ["A headline"], ()),
        ("LaMP_4", ["yes", "no"], ["A headline", "Another", "yes"], ()),  # one task among free ones has choices
        ("LaMP_1", ["[1]", "[2]"], ["[1]", "[2]"], ()),  # items are no targets, so the choices are of the task alone
    ],
)
def test_labels_are_the_choices_that_users_answer_with(
    kind: str, choices: list[str] | None, outputs: list[str], labels: tuple[str, ...]
) -> None:
    found = [Target("ann", "", output, "", datetime(2026, 1, 1, tzinfo=UTC)) for output in outputs]
    assert TrainingData(KINDS[kind], [], Targets(found, 0), choices).labels == labels
