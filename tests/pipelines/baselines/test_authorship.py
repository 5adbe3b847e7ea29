import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jobs.kinds import load_kinds
from llm_jobs.metrics import Scored, evaluate_answers
from pipelines.baselines.answering import Arm
from pipelines.baselines.authorship import LEAST_OUTPUTS, REFERENCE, Voices, share_below, with_authorship
from pipelines.baselines.table import comparison_rows

KIND = load_kinds()["LaMP_4"]
LOUD, DRY = "Wow!!! you won't believe this: {}", "Report on the {} of the committee"
SUBJECTS = ["budget", "weather", "election", "harvest", "railway"]
OUTPUTS = {"loud": [LOUD.format(one) for one in SUBJECTS], "dry": [DRY.format(one) for one in SUBJECTS], "new": ["Hm"]}


def arm(**answers: list[str]) -> Arm:
    """By user the answers to their one task, whose reference is in their own voice."""
    voice = {"loud": LOUD, "dry": DRY, "new": "Hm {}"}
    return Arm(
        scored={
            f"t-{user}": [Scored(user, text, voice[user].format("bridge")) for text in texts]
            for user, texts in answers.items()
        }
    )


ARMS = {
    "own": arm(loud=["Wow!!! believe this: bridges"], dry=["Report on the bridge"], new=["Hm bridge"]),
    "other": arm(loud=["A bridge", "The bridges"], dry=["Wow!!! a bridge", "You won't believe it!!!"], new=["A", "B"]),
}


def authorship(one: Arm) -> list[float]:
    return [answer.authorship for answers in one.scored.values() for answer in answers]


@given(st.floats(-9, 9), st.lists(st.floats(-9, 9), min_size=1))
def test_the_area_is_the_share_below_and_turns_over_with_the_order(own: float, others: list[float]) -> None:
    assert 0 <= share_below(own, others) <= 1
    assert share_below(own, others) == pytest.approx(1 - share_below(-own, [-other for other in others]))
    assert share_below(own, [own] * len(others)) == 0.5


@given(st.sampled_from(SUBJECTS))
def test_a_text_is_told_by_how_it_is_written_and_not_by_its_subject(subject: str) -> None:
    voices = Voices({user: [text for text in texts if subject not in text] for user, texts in OUTPUTS.items()})
    assert voices.likeness("loud", LOUD.format(subject)) > 0 > voices.likeness("loud", DRY.format(subject))
    assert voices.likeness("dry", DRY.format(subject)) > 0 > voices.likeness("dry", LOUD.format(subject))
    assert voices.likeness("dry", "") == 0


def test_answers_are_held_against_those_to_the_same_task_with_another_persona() -> None:
    told = with_authorship(ARMS, "other", OUTPUTS)
    assert len(OUTPUTS["new"]) < LEAST_OUTPUTS
    assert authorship(told["own"]) == [1, 1, -1]
    assert authorship(told[REFERENCE]) == [1, 1, -1]
    assert sum(authorship(told["other"])[:4]) == 4 * 0.5
    assert authorship(ARMS["own"]) == [-1, -1, -1]
    assert with_authorship({"own": ARMS["own"]}, "other", OUTPUTS) == {"own": ARMS["own"]}


def test_what_users_really_wrote_is_a_ceiling_and_no_method() -> None:
    told = with_authorship(ARMS, "other", OUTPUTS)
    rows = comparison_rows(KIND, told, {"all": ["t-loud", "t-dry", "t-new"]}, None)
    by_arm = {(row["arm"], row["metric"]): row for row in rows}
    assert [metric for name, metric in by_arm if name == REFERENCE] == ["authorship"]
    assert by_arm["own", "authorship"]["value"] == 1
    assert by_arm["own", "authorship"]["difference"] == 0.5
    assert by_arm["own", "authorship"]["compared_with"] == by_arm["own", "rouge-1"]["compared_with"] == "other"
    assert by_arm[REFERENCE, "authorship"]["compared_with"] == "own"


def test_answers_that_nobody_judged_have_no_authorship() -> None:
    answers = [answer for scored in ARMS["own"].scored.values() for answer in scored]
    assert {value.metric for value in evaluate_answers(KIND.metric, answers, None)} == {
        "rouge-1",
        "rouge-L",
        "rouge-1-unicode",
        "rouge-L-unicode",
    }
