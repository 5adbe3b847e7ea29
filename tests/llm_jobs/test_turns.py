"""Items of a user as earlier turns of a conversation."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny_models import save_model, tiny_llama

from embedder.histories import History
from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.prompts import Ids, PromptFormat, Request
from llm_jobs.tasks import Pair, PersonalTask
from llm_jobs.turns import ITEM_LETTERS, cut_texts, few_shot, fits, nearest_pairs, with_turns


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> FrozenLLM:
    return FrozenLLM.from_pretrained(str(save_model(tmp_path_factory.mktemp("llm"), tiny_llama(4, 512), is_chat=True)))


def asked(vectors: np.ndarray, pairs: list[Pair | None], query: str = "q") -> PersonalTask:
    """A free task of a user with these vectors and items, near to the first axis."""
    near = np.eye(max(1, vectors.shape[1]), dtype=np.float32)[0]
    return PersonalTask(f"Say: {query}", near, History.of_items(vectors), None, 8, query=query, pairs=pairs)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 900), max_size=4), st.integers(1, 600))
def test_whatever_the_lengths_turns_fit_and_the_best_comes_last(
    llm: FrozenLLM, lengths: list[int], task_length: int
) -> None:
    items: list[Pair] = [(f"{at}" + "z" * length, f"out {at}") for at, length in enumerate(lengths)]
    query, reserve = "q" * task_length, 8
    prompt, turns, places = few_shot(f"Say: {query}", query, items, llm, reserve, len(items))
    assert prompt == (query if turns else f"Say: {query}")
    assert [*places] == [*range(len(turns))]
    assert not turns or fits(prompt, llm, reserve, turns)
    assert [answer for _, answer in turns] == [f"out {at}" for at in reversed(range(len(turns)))]
    assert all(items[len(turns) - 1 - at][0].startswith(said) for at, (said, _) in enumerate(turns))
    if items and fits(prompt + "z" * 200, llm, reserve):
        assert turns


@given(st.lists(st.text(alphabet="ab é你", max_size=40), min_size=1, max_size=4), st.integers(0, 120))
def test_cut_texts_are_beginnings_within_the_room_and_only_what_does_not_fit_is_cut(
    llm: FrozenLLM, texts: list[str], room: int
) -> None:
    cut = cut_texts(texts, [llm.format.token_ids(text) for text in texts], room, llm)
    assert all(text.startswith(part) for text, part in zip(texts, cut, strict=True))
    sizes = [len(llm.format.token_ids(text)) for text in texts]
    assert sum(len(llm.format.token_ids(part)) for part in cut) <= room
    if max(sizes) <= room // len(texts):
        assert cut == texts


PAIRS: dict[str | None, Pair | None] = {
    "said": ("text", "out"),
    "empty": ("", "out"),
    "blank": (" ", "out"),
    "mute": ("text", None),
    "blank output": ("text", " "),
    "itself": (" q ", "out"),
    None: None,
}

near = st.integers(0, 6).flatmap(
    lambda count: st.tuples(
        arrays(np.float32, (count, 3), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])),
        st.lists(
            st.sampled_from([*PAIRS]),
            min_size=count,
            max_size=count,
        ),
    )
)
ITEMS = st.lists(st.tuples(st.sampled_from([1, 30, 600, 3_000]), st.sampled_from([1, 30, 600])), max_size=6)


@settings(max_examples=50)
@given(ITEMS, st.integers(0, 4))
def test_an_item_that_cannot_fit_gives_its_place_to_the_next(
    llm: FrozenLLM, lengths: list[tuple[int, int]], count: int
) -> None:
    items: list[Pair] = [("z" * text, "o" * output) for text, output in lengths]
    shot = few_shot("Say: q", "q", items, llm, 8, count)
    alone = [at for at, item in enumerate(items) if few_shot("Say: q", "q", [item], llm, 8, 1).turns]
    assert [*shot.places] == alone[:count]  # of those that fit at all, this context has room for four
    assert bool(shot.turns) == bool(alone and count)


def test_long_texts_are_looked_at_once(llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    token_ids = PromptFormat.token_ids

    def counted(form: PromptFormat, text: str) -> Ids:
        asked.append(len(text))
        return token_ids(form, text)

    monkeypatch.setattr(PromptFormat, "token_ids", counted)
    items: list[Pair] = [("z" * 100_000, "o" * 100_000), *[("z" * 100_000, "out")] * 3]
    assert len(few_shot("Say: q", "q", items, llm, 8, 4).turns) == 3
    assert sum(length == 100_000 for length in asked) == 1
    assert max(length for length in asked if length < 100_000) == ITEM_LETTERS
    assert len(asked) < 200


@given(near)
def test_the_nearest_items_with_text_and_output_come_first_and_the_newest_of_equal_ones(
    drawn: tuple[np.ndarray, list[str | None]],
) -> None:
    vectors, names = drawn
    found = nearest_pairs(asked(vectors, [PAIRS[name] for name in names]))
    assert sorted(found) == [at for at, name in enumerate(names) if name == "said"]
    cosines = [float(vectors[at, 0] / (np.linalg.norm(vectors[at]) or 1.0)) for at in found]
    for (left, one), (right, other) in pairwise(zip(cosines, found, strict=True)):
        assert left > right - 1e-6
        assert left != right or one > other


def test_vectors_whose_items_are_turns_count_alike_and_the_others_nothing(llm: FrozenLLM) -> None:
    vectors = np.array([(1, 0), (0, 1), (3, 3), (1, 0.1)], np.float32)
    pairs: list[Pair | None] = [("text 0", "out 0"), ("text 1", "out 1"), None, ("text 3", "out 3")]
    request, weights = with_turns(llm, asked(vectors, pairs), Request("Say: q"), 2)
    assert request.turns == (("text 3", "out 3"), ("text 0", "out 0"))
    assert request.prompt == "q"
    assert weights.tolist() == [0.5, 0, 0, 0.5]


@pytest.mark.parametrize("pairs", [[], [None], [("text", None)]])
def test_without_an_item_that_may_be_a_turn_the_task_is_asked_as_it_is(
    llm: FrozenLLM, pairs: list[Pair | None]
) -> None:
    vectors = np.ones((len(pairs), 2), np.float32)
    request, weights = with_turns(llm, asked(vectors, pairs), plain := Request("Say: q"), 4)
    assert (request.prompt, request.turns) == (plain.prompt, ())
    assert weights.tolist() == [0.0] * len(pairs)
