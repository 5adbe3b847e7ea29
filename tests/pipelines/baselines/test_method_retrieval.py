import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from method_cases import case, item

from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.kinds import Kind
from llm_jobs.prompts import Placement
from llm_jobs.training.data import Example
from llm_jobs.turns import ITEM_TOKENS, fits
from pipelines.baselines.extra import required
from pipelines.baselines.retrieval import (
    WithItems,
    bm25_scores,
    by_bm25,
    by_cosine,
    by_recency,
    retrieved_prompt,
)

texts = st.lists(
    st.lists(st.sampled_from(["apple", "pear", "boat", "sea", "red"]), max_size=6).map(" ".join), max_size=8
)


def bm25(texts: list[str], query: list[str]) -> list[float]:
    """Lucene's formula, slowly."""
    corpus = [text.split() for text in texts]
    average = sum(map(len, corpus)) / len(corpus)
    scores = []
    for words in corpus:
        score = 0.0
        for word in query:
            found = sum(word in other for other in corpus)
            idf = math.log(1 + (len(corpus) - found + 0.5) / (found + 0.5))
            tf = words.count(word)
            score += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(words) / average)) if tf else 0.0
        scores.append(score)
    return scores


@given(texts, st.lists(st.sampled_from(["apple", "boat", "moon"]), max_size=4))
def test_bm25_is_the_formula(texts: list[str], query: list[str]) -> None:
    wanted = bm25(texts, query) if any(texts) else [0.0] * len(texts)
    assert bm25_scores(texts, query) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@given(texts)
def test_items_are_ranked_best_first_and_the_newest_of_equals(kinds: dict[str, Kind], texts: list[str]) -> None:
    task = case([item(at, text, None, (at % 3, 1)) for at, text in enumerate(texts)], "Which? note: apple boat")
    newest = sorted(task.items, key=lambda one: one.posted_at, reverse=True)
    assert by_recency(task) == newest
    scores = dict(
        zip(
            [one.item_id for one in newest],
            bm25_scores([one.text for one in newest], ["apple", "boat"]),
            strict=True,
        )
    )
    ranked = by_bm25(kinds["note"])(task)
    assert [one.item_id for one in ranked] == [
        one.item_id for one in sorted(newest, key=lambda one: -scores[one.item_id])
    ]
    near = by_cosine(task)
    assert [float(one.vector @ task.personal.task) for one in near] == sorted(
        (float(one.vector @ task.personal.task) for one in newest), reverse=True
    )


@pytest.fixture(scope="module")
def llm(llm_folder: Path) -> FrozenLLM:
    return FrozenLLM.from_pretrained(str(llm_folder))


def test_the_prompts_are_worded_as_in_lamp(kinds: dict[str, Kind], llm: FrozenLLM) -> None:
    items = [item(1, "T1", "O1"), item(2, "T2", "O2")]
    wanted = {
        "LaMP_2": 'the tag for the movie: "T1" is "O1" , and the tag for the movie: "T2" is "O2" . in',
        "LaMP_3": 'O1 is the score for "T1" , and O2 is the score for "T2" . in',
        "LaMP_4": '"O1" is the title for "T1" , and "O2" is the title for "T2" . in',
        "LaMP_5": '"O1" is a title for "T1" , and "O2" is a title for "T2" . Following the given patterns in',
        "LaMP_7": '"T1" , and "T2"  are written by a person. Following the given patterns in',
    }
    for name, prompt in wanted.items():
        assert retrieved_prompt(case(items, "in", choices=None), items, kinds[name], llm, 0) == prompt
    assert retrieved_prompt(case([], "in"), [], kinds["LaMP_4"], llm, 0) == "in"


@settings(max_examples=25)
@given(st.lists(st.integers(0, 900), max_size=4), st.integers(1, 600), st.integers(0, 8))
def test_whatever_the_lengths_the_prompt_fits_and_the_task_is_whole(
    kinds: dict[str, Kind], llm: FrozenLLM, lengths: list[int], task_length: int, soft: int
) -> None:
    items = [item(at, "z" * length, "out") for at, length in enumerate(lengths)]
    task = case(items, "note: " + "q" * task_length)
    prompt = retrieved_prompt(task, items, kinds["LaMP_4"], llm, soft)
    assert prompt.endswith(task.task.input)
    reserve = soft + max(len(llm.answer_ids(choice)) for choice in task.task.choices or ())
    assert prompt == task.task.input or fits(prompt, llm, reserve)
    if items and fits(task.task.input + "z" * 100, llm, reserve):
        assert '"out" is the title for' in prompt
        assert not llm.parts(prompt, Placement.AFTER, reserve).is_shortened


def test_an_item_gets_what_others_leave(kinds: dict[str, Kind], llm: FrozenLLM) -> None:
    short, long = item(1, "s", "a"), item(2, "z" * 1000, "b")
    prompt = retrieved_prompt(case([short, long], "in"), [short, long], kinds["LaMP_4"], llm, 0)
    assert ITEM_TOKENS < len(re.findall("z", prompt)) < 2 * ITEM_TOKENS


def test_a_training_prompt_holds_the_nearest_item_of_its_kind_before_it(kinds: dict[str, Kind], llm: FrozenLLM) -> None:
    rows = [
        {"user_id": user, "kind": kind, "text": f"text {at}", "output": None if at == 3 else f"title {at}"}
        for user, at, kind in [
            ("a", 0, "LaMP_4"),
            ("b", 1, "LaMP_4"),
            ("b", 2, "LaMP_4"),
            ("b", 3, "LaMP_4"),
            ("b", 4, "note"),
            ("b", 5, "unknown"),
            ("b", 6, "LaMP_4"),
            ("b", 7, "LaMP_4"),
        ]
    ]
    history = np.array([(0, 1), (1, 0), (1, 0), (1, 0), (0.5, 0), (2, 0)], np.float32)  # all known items of b
    task = np.array((1, 0), np.float32)
    made = [Example("b", "headline: x", "y", task, history[:count]) for count in (0, 1, 4, 5, 6)]
    worded = WithItems(rows, kinds, kinds["LaMP_4"], llm, soft=8)
    found = worded.nearest(made)
    assert found[0] is made[0]
    in_prompts = [re.findall('"(title .)"', one.prompt) for one in found]
    assert in_prompts == [[], ["title 1"], ["title 2"], ["title 2"], ["title 7"]]
    assert all(one.prompt.endswith("headline: x") for one in found)
    turns = [[answer for _, answer in one.turns] for one in worded.few_shot(made, 2)]
    assert turns == [[], ["title 1"], ["title 1", "title 2"], ["title 6", "title 2"], ["title 2", "title 7"]]


def test_a_missing_library_is_named_with_the_command() -> None:
    from embedder.errors import InputMissing

    with pytest.raises(InputMissing, match=r"needs no_such_library.*pip install 'pplug\[compare\]'"):
        required("no_such_library.part")
