"""The metrics against scikit-learn and rouge-score, the bootstrap against a slow loop, and what must always hold."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, root_mean_squared_error

from embedder.errors import PplugError
from llm_jobs import metrics
from llm_jobs.kinds import Metric
from llm_jobs.metrics import UNKNOWN, MetricValue, Scored, evaluate_answers, paired_difference

LABELS = ("classic", "comedy", "sci-fi", "never seen")
SCALE = ("1", "2", "3", "4", "5")
EXAMPLES = settings(max_examples=50, deadline=None)

users = st.sampled_from(["ann", "bob", "cy", "dee", ""])
tags = st.sampled_from([*LABELS[:3], "Comedy", " comedy ", "", "a comedy"])
ratings = st.sampled_from([*SCALE, "4.5", " 2 ", "five", "", "nan", "inf", "-inf", "1e999", "1e200", "7", "-3"])
words = st.text(alphabet="ab cd.", max_size=12)
tagged = st.builds(Scored, users, tags, st.sampled_from(LABELS[:3]), st.just(()), st.just(UNKNOWN))
rated = st.builds(Scored, users, ratings, st.sampled_from(SCALE), st.just(()), st.just(UNKNOWN))
written = st.builds(Scored, users, words, words, st.just(()), st.just(UNKNOWN))
arms = st.one_of(
    st.tuples(st.just(Metric.ACCURACY), st.lists(tagged, min_size=1, max_size=30), st.just(LABELS)),
    st.tuples(st.just(Metric.RATING), st.lists(rated, min_size=1, max_size=30), st.just(SCALE)),
    st.tuples(st.just(Metric.ROUGE), st.lists(written, min_size=1, max_size=8), st.none()),
)
Arm = tuple[Metric, list[Scored], tuple[str, ...] | None]


def values(results: list[MetricValue]) -> dict[str, float]:
    return {result.metric: result.value for result in results}


def lamp_rating(prediction: str, reference: str) -> float:
    """LaMP's rule, spelled out: what is no number is as wrong as the scale from 1 to 5 allows."""
    if prediction.strip() in {"nan", "inf", "-inf", "1e999", "1e200"}:
        prediction = "unreadable"
    try:
        return float(prediction)
    except ValueError:
        return 1.0 if abs(1 - float(reference)) > abs(5 - float(reference)) else 5.0


@EXAMPLES
@given(st.lists(tagged, min_size=1, max_size=40))
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(answers: list[Scored]) -> None:
    predicted = [answer.prediction.strip() for answer in answers]
    true = [answer.reference for answer in answers]
    known = [tag if tag in LABELS else "unknown" for tag in predicted]
    wanted = {
        "accuracy": accuracy_score(true, known),
        "f1": f1_score(true, known, labels=LABELS, average="macro", zero_division=0),
    }
    assert values(evaluate_answers(Metric.ACCURACY, answers, LABELS)) == pytest.approx(wanted)


@EXAMPLES
@given(st.lists(rated, min_size=1, max_size=40))
def test_mae_and_rmse_are_those_of_scikit_learn(answers: list[Scored]) -> None:
    true = [float(answer.reference) for answer in answers]
    predicted = [lamp_rating(answer.prediction, answer.reference) for answer in answers]
    wanted = {"mae": mean_absolute_error(true, predicted), "rmse": root_mean_squared_error(true, predicted)}
    assert values(evaluate_answers(Metric.RATING, answers, SCALE)) == pytest.approx(wanted)


@EXAMPLES
@given(st.lists(written, min_size=1, max_size=10))
def test_rouge_is_the_mean_f_measure_of_rouge_score_without_stemming(answers: list[Scored]) -> None:
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    scores = [scorer.score_multi([answer.reference.strip()], answer.prediction.strip()) for answer in answers]
    wanted = {
        "rouge-1": np.mean([score["rouge1"].fmeasure for score in scores]),
        "rouge-L": np.mean([score["rougeL"].fmeasure for score in scores]),
    }
    found = values(evaluate_answers(Metric.ROUGE, answers, None))
    assert {name: found[f"{name}-unicode"] for name in wanted} == pytest.approx(wanted)  # the same of ASCII
    if any(set(answer.reference) & set("abcd") for answer in answers):
        assert {name: found[name] for name in wanted} == pytest.approx(wanted)


RUSSIAN = ("мама", "мыла", "раму", "Ёлка", "ёлка", "2026")
CHINESE = ("今", "天", "气", "很", "好")
THAI = ("วั", "น", "นี้", "ดี")  # characters with their marks


def f_measures(said: list[str], true: list[str]) -> tuple[float, float]:
    """ROUGE-1 and ROUGE-L of two lists of tokens, the slow way."""

    def longest(one: list[str], other: list[str]) -> int:
        """Of all ways to leave tokens out of one text the longest that is in the other in order."""
        for size in range(len(one), 0, -1):
            for kept in itertools.combinations(one, size):
                rest = iter(other)
                if all(token in rest for token in kept):
                    return size
        return 0

    shared = sum(min(said.count(token), true.count(token)) for token in set(said))
    counts = shared, longest(said, true)
    return tuple(2 * count / (len(said) + len(true)) if said and true else 0.0 for count in counts)  # pyright: ignore[reportReturnType]


@EXAMPLES
@given(st.data(), st.sampled_from([(RUSSIAN, " "), (RUSSIAN, ", "), (CHINESE, ""), (CHINESE, "。"), (THAI, "")]))
def test_rouge_of_other_scripts_is_that_of_their_words_or_characters(
    data: st.DataObject, script: tuple[tuple[str, ...], str]
) -> None:
    tokens, between = script
    pairs = data.draw(st.lists(st.tuples(*[st.lists(st.sampled_from(tokens), max_size=6)] * 2), min_size=1, max_size=4))
    answers = [Scored("ann", between.join(said), between.join(true)) for said, true in pairs]
    scores = [f_measures([one.lower() for one in said], [one.lower() for one in true]) for said, true in pairs]
    wanted = {f"rouge-{name}-unicode": np.mean([score[at] for score in scores]) for at, name in enumerate("1L")}
    found = values(evaluate_answers(Metric.ROUGE, answers, None))
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize(
    "text",
    [
        "Мама мыла раму",
        "今天天气很好",
        "今日は天気がいい",
        "วันนี้อากาศดี",
        "यह अच्छा है",
        "هذا يوم جميل",
        "좋은 아침",
        "🎉🎉",
    ],
)
def test_equal_texts_of_any_script_score_one_and_have_no_official_number(text: str) -> None:
    found = values(evaluate_answers(Metric.ROUGE, [Scored("ann", text, text)], None))
    assert found == {"rouge-1-unicode": pytest.approx(1.0), "rouge-L-unicode": pytest.approx(1.0)}


def test_a_few_letters_that_the_official_rouge_does_not_read_leave_it_in() -> None:
    accents = "The café opened on Monday at the corner of the market square"
    assert len(evaluate_answers(Metric.ROUGE, [Scored("ann", accents, accents)], None)) == 4
    mixed = [Scored("ann", accents, accents), Scored("bob", "мама мыла раму", "мама мыла раму")]
    assert values(evaluate_answers(Metric.ROUGE, mixed, None)) == {"rouge-1-unicode": 1.0, "rouge-L-unicode": 1.0}


def test_rouge_does_not_stem_and_does_not_mind_case() -> None:
    answers = [Scored("ann", "The Cats sat", "the cat sat")]
    found = values(evaluate_answers(Metric.ROUGE, answers, None))
    names = ("rouge-1", "rouge-L", "rouge-1-unicode", "rouge-L-unicode")
    assert found == pytest.approx(dict.fromkeys(names, 2 / 3))


def test_a_label_that_never_occurs_counts_as_zero() -> None:
    answers = [Scored("ann", "classic", "classic"), Scored("bob", "comedy", "comedy")]
    assert values(evaluate_answers(Metric.ACCURACY, answers, LABELS)) == {"accuracy": 1.0, "f1": 0.5}
    assert values(evaluate_answers(Metric.ACCURACY, answers, None)) == {"accuracy": 1.0, "f1-occurring": 1.0}


@EXAMPLES
@given(st.lists(tagged, min_size=1, max_size=40), st.none() | st.lists(st.sampled_from(LABELS), min_size=1))
def test_accuracy_is_the_share_of_right_answers_whatever_the_labels(answers: list[Scored], labels: list[str]) -> None:
    right = sum(answer.prediction.strip() == answer.reference for answer in answers)
    assert values(evaluate_answers(Metric.ACCURACY, answers, labels))["accuracy"] == right / len(answers)


def test_a_rating_that_is_no_number_is_as_wrong_as_the_scale_of_its_own_task_allows() -> None:
    answers = [Scored("ann", "?", "4", ("1", "5")), Scored("ann", "?", "4", ("0", "10")), Scored("bob", "4", "4")]
    assert values(evaluate_answers(Metric.RATING, answers, None))["mae"] == pytest.approx((3 + 6 + 0) / 3)


def test_a_reference_takes_the_spelling_of_its_choice() -> None:
    answers = [
        Scored.of("ann", "sports", " Sports", ["sports", "news"]),
        Scored.of("bob", None, "Sports", None),
        Scored.of("cy", "4", "4.0", ["4", "5"]),
    ]
    assert [answer.reference for answer in answers] == ["sports", "Sports", "4"]


@pytest.mark.parametrize(
    ("prediction", "reference", "error"),
    [
        ("4", "5", 1),
        ("x", "1", 4),
        ("x", "2", 3),
        ("x", "3", 2),
        ("x", "4", 3),
        ("x", "5", 4),
        ("nan", "4", 3),
        ("9", "5", 4),
    ],
)
def test_what_is_no_number_is_as_wrong_as_can_be(prediction: str, reference: str, error: float) -> None:
    found = evaluate_answers(Metric.RATING, [Scored("ann", prediction, reference)], SCALE)
    assert values(found) == {"mae": error, "rmse": error}


def test_the_scale_is_the_one_of_the_labels_in_any_order() -> None:
    found = evaluate_answers(Metric.RATING, [Scored("ann", "?", "4"), Scored("ann", "?", "9")], ["10", "0", "2"])
    assert values(found)["mae"] == pytest.approx((6 + 9) / 2)


@pytest.mark.parametrize("reference", ["good", "", "nan", "inf"])
def test_a_reference_that_is_no_rating_is_an_error_that_names_its_user(reference: str) -> None:
    with pytest.raises(PplugError, match=r"a reference of a rating is no number.*pplug ingest tasks"):
        evaluate_answers(Metric.RATING, [Scored("ann", "3", reference)], SCALE)


def test_a_scale_that_is_no_scale_is_an_error_that_counts() -> None:
    with pytest.raises(PplugError, match=r"1 labels of a rating are no numbers.*pplug ingest tasks"):
        evaluate_answers(Metric.RATING, [Scored("ann", "3", "4")], ("1", "five"))


def slow_interval(answers: list[Scored], labels: tuple[str, ...], name: str) -> tuple[float, float]:
    """1,000 times: draw users, put all their answers together, score them from scratch."""
    known = sorted({answer.user_id for answer in answers})
    draws = np.random.default_rng(metrics.SEED).integers(len(known), size=(1000, len(known)))
    found: list[float] = []
    for drawn in draws:
        sample = [answer for user in drawn for answer in answers if answer.user_id == known[user]]
        true = [answer.reference for answer in sample]
        said = [answer.prediction for answer in sample]
        if name == "f1":
            found.append(f1_score(true, said, labels=labels, average="macro", zero_division=0))
        else:
            found.append(root_mean_squared_error(list(map(float, true)), list(map(float, said))))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


@pytest.mark.parametrize(
    ("metric", "name", "labels"), [(Metric.ACCURACY, "f1", LABELS), (Metric.RATING, "rmse", SCALE)]
)
def test_the_interval_is_that_of_a_slow_loop_over_users(metric: Metric, name: str, labels: tuple[str, ...]) -> None:
    source = random.Random(5)
    answers = [Scored(f"u{source.randrange(12)}", source.choice(labels), source.choice(labels)) for _ in range(40)]
    (found,) = [result for result in evaluate_answers(metric, answers, labels) if result.metric == name]
    assert (found.low, found.high) == pytest.approx(slow_interval(answers, labels, name))


def test_resampling_in_small_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Scored(f"u{n % 7}", LABELS[n % 3], LABELS[n % 2]) for n in range(40)]
    whole = evaluate_answers(Metric.ACCURACY, answers, LABELS)
    monkeypatch.setattr(metrics, "DRAWS_AT_ONCE", 20)
    assert evaluate_answers(Metric.ACCURACY, answers, LABELS) == whole


@EXAMPLES
@given(arms, st.randoms())
def test_the_order_of_answers_and_labels_is_irrelevant(arm: Arm, source: random.Random) -> None:
    metric, answers, labels = arm
    shuffled, mixed = list(answers), list(labels or [])
    source.shuffle(shuffled)
    source.shuffle(mixed)
    found = evaluate_answers(metric, shuffled, mixed or None)
    for one, other in zip(found, evaluate_answers(metric, answers, labels), strict=True):
        assert one.metric == other.metric
        assert one[1:] == pytest.approx(other[1:])


@EXAMPLES
@given(arms)
def test_every_number_is_finite_and_the_interval_holds_the_value(arm: Arm) -> None:
    for result in evaluate_answers(*arm):
        assert all(map(math.isfinite, result[1:]))
        assert result.low <= result.value <= result.high


@EXAMPLES
@given(arms)
def test_with_one_user_there_is_nothing_to_resample(arm: Arm) -> None:
    metric, answers, labels = arm
    for result in evaluate_answers(metric, [answer._replace(user_id="ann") for answer in answers], labels):
        assert result.low == pytest.approx(result.value)
        assert result.high == pytest.approx(result.value)


@EXAMPLES
@given(arms)
def test_the_references_themselves_are_perfect_answers(arm: Arm) -> None:
    metric, answers, _ = arm
    assume(metric is not Metric.ROUGE or all(set(answer.reference) & set("abcd") for answer in answers))
    perfect = [answer._replace(prediction=answer.reference) for answer in answers]
    best = 0.0 if metric is Metric.RATING else 1.0
    for result in evaluate_answers(metric, perfect, None):
        assert result.value == pytest.approx(best)


@EXAMPLES
@given(arms)
def test_an_arm_does_not_differ_from_itself_answered_five_times(arm: Arm) -> None:
    metric, answers, labels = arm
    for result in paired_difference(metric, answers, answers * 5, labels):
        assert result[1:] == pytest.approx((0.0, 0.0, 0.0))


@EXAMPLES
@given(arms, st.randoms())
def test_a_difference_is_that_of_the_values_and_turns_with_the_arms(arm: Arm, source: random.Random) -> None:
    metric, first, labels = arm
    second = [answer._replace(prediction=source.choice(first).prediction) for answer in first]
    ours, theirs = (values(evaluate_answers(metric, answers, labels)) for answers in (first, second))
    there, back = paired_difference(metric, first, second, labels), paired_difference(metric, second, first, labels)
    for one, other in zip(there, back, strict=True):
        assert one.value == pytest.approx(ours[one.metric] - theirs[one.metric])
        assert one[1:] == pytest.approx((-other.value, -other.high, -other.low))


def test_pairing_finds_a_small_difference_that_every_user_shows() -> None:
    """Users differ far more among themselves than the two arms do."""
    first = [Scored(f"u{n // 10}", "classic" if n % 10 <= n // 10 else "x", "classic") for n in range(100)]
    second = [answer._replace(prediction="x") if n % 10 == 0 else answer for n, answer in enumerate(first)]
    accuracy = paired_difference(Metric.ACCURACY, first, second, LABELS)[0]
    assert accuracy[1:] == pytest.approx((0.1, 0.1, 0.1))
    apart = [evaluate_answers(Metric.ACCURACY, arm, LABELS)[0] for arm in (first, second)]
    assert apart[0].low < apart[1].high


def test_arms_over_other_tasks_are_not_compared() -> None:
    first = [Scored("ann", "classic", "classic"), Scored("bob", "classic", "comedy")]
    for second in ([first[0]], [first[0], first[0]], [first[0], Scored("bob", "classic", "classic")], []):
        with pytest.raises(PplugError, match="do not answer the same tasks"):
            paired_difference(Metric.ACCURACY, first, second, LABELS)


def test_no_answers_have_no_metrics() -> None:
    assert [evaluate_answers(metric, [], LABELS) for metric in Metric] == [[], [], []]
    assert paired_difference(Metric.ACCURACY, [], [], LABELS) == []
