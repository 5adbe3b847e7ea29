from typing import Any

import pytest

from pipelines.baselines.registry import LORA, METHODS
from pipelines.command.evaluations import metric_tables
from pipelines.verdicts.evaluated import Finding, drawn_interval, reach, verdict
from pipelines.verdicts.words import ARMS, METRICS, metric_words, points


def rows(difference: float, low: float, high: float, metric: str = "accuracy") -> list[dict[str, Any]]:
    """An evaluation in which `other` is that far above `own`."""
    both = {"metric": metric, "value": 0.5, "low": 0.4, "high": 0.6, "task_count": 120}
    paired = {"difference": difference, "difference_low": low, "difference_high": high, "compared_with": "own"}
    return [{"arm": "own", **both}, {"arm": "other", **both, **paired}, {"arm": "none", **both, **paired}]


@pytest.mark.parametrize(
    ("found", "users", "finding", "words"),
    [
        (
            rows(-0.72, -0.80, -0.64),
            40,
            Finding.PERSONAL,
            "beats somebody else's by 72 points (95% interval +64 to +80",
        ),
        (rows(0.31, 0.2, 0.4, "mae"), 40, Finding.PERSONAL, "by 0.31 of a rating step (95% interval +0.20 to +0.40"),
        (rows(0.05, 0.02, 0.08), 40, Finding.WORSE, "Worse than with somebody else's persona, by 5.0 points"),
        (rows(-0.001, -0.006, 0.005), 400, Finding.NOT_PERSONAL, "makes no difference"),
        (rows(-0.02, -0.06, 0.03), 40, Finding.TOO_FEW, "About 5 times as many would tell"),
        (rows(-0.72, -0.80, -0.64), 6, Finding.TOO_FEW, "fewer than 20 users says little"),
        (rows(0, 0, 0)[:1], 40, Finding.NOT_COMPARED, "evaluate with --controls"),
    ],
)
def test_a_verdict_says_what_the_interval_allows(
    found: list[dict[str, Any]], users: int, finding: Finding, words: str
) -> None:
    said = verdict(found, users)
    assert said.finding is finding
    assert words in said.sentence


def test_an_interval_is_drawn_on_an_axis_that_shows_the_difference() -> None:
    row = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert drawn_interval(row, 0.0, 1.0, 11) == "    ├●┤"
    assert drawn_interval(row | {"low": None, "high": None}, 0.0, 1.0, 11) == "     ●"
    assert reach([row]) == (pytest.approx(0.39), pytest.approx(0.61))
    assert reach([row | {"low": 0.0}])[0] == 0.0


@pytest.mark.parametrize(("value", "shown"), [(0.5, 1), (0.6, 2)])
def test_a_metric_for_any_script_is_shown_only_where_it_says_something_else(value: float, shown: int) -> None:
    latin = [row | {"kind": "note", "slice": None, "metric": "rouge-1"} for row in rows(0, 0, 0)]
    any_script = [row | {"metric": "rouge-1-unicode", "value": value} for row in latin]
    headings = [heading for heading, _ in metric_tables([*latin, *any_script])]
    assert len(headings) == shown
    assert "ROUGE-1, shared words" in headings[0]


def test_every_compared_method_and_metric_has_words() -> None:
    assert {*METHODS, LORA} == set(ARMS)
    assert metric_words("bleu").name == "bleu"
    assert points(0.005, "accuracy") == "0.5 points"
    assert all(words.meaning for words in METRICS.values())
