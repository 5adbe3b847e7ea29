import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedder import personas
from embedder.personas import summarise


def unit_vectors(count: int, seed: int, width: int = 8) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


counts = st.integers(1, 60)
seeds = st.integers(0, 2**32 - 1)
limits = st.integers(1, 20)


@given(counts, seeds, limits)
def test_no_item_is_lost(count: int, seed: int, most: int) -> None:
    persona = summarise(unit_vectors(count, seed), most)
    assert persona.counts.sum() == count
    assert (persona.counts > 0).all()
    assert len(persona.vectors) == len(persona.counts) == len(persona.typical) <= most
    assert len(set(persona.typical)) == len(persona.typical)


@given(counts, seeds, limits)
def test_the_mean_of_the_vectors_is_the_mean_of_the_items(count: int, seed: int, most: int) -> None:
    vectors = unit_vectors(count, seed)
    persona = summarise(vectors, most)
    np.testing.assert_allclose(persona.counts @ persona.vectors, vectors.sum(axis=0), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(persona.mean), 1, atol=1e-5)


@given(st.integers(1, 20), seeds)
def test_every_item_stands_alone_while_they_fit(count: int, seed: int) -> None:
    vectors = unit_vectors(count, seed)
    persona = summarise(vectors, 20)
    np.testing.assert_array_equal(persona.vectors, vectors)
    np.testing.assert_array_equal(persona.typical, np.arange(count))


def test_similar_items_share_a_vector_and_the_nearest_item_names_it() -> None:
    centres = np.eye(4, dtype=np.float32)
    noise = unit_vectors(40, 1, 4) * 0.1
    vectors = np.repeat(centres, 10, axis=0) + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    persona = summarise(vectors, 4)
    assert sorted(persona.counts) == [10, 10, 10, 10]
    for vector, typical in zip(persona.vectors, persona.typical, strict=True):
        members = np.flatnonzero(vectors @ vector > 0.5)
        assert typical == members[np.argmax(vectors[members] @ vector)]


def test_vectors_that_cancel_out_still_give_a_finite_mean() -> None:
    persona = summarise(np.array([[1, 0], [-1, 0]], np.float32), 64)
    assert np.isfinite(persona.mean).all()


@given(seeds)
def test_merged_vectors_keep_more_of_the_items_than_one_mean_does(seed: int) -> None:
    vectors = unit_vectors(200, seed)
    merged = summarise(vectors, 16)
    nearest = np.max(vectors @ merged.vectors.T - 0.5 * (merged.vectors**2).sum(1), axis=1)
    one_mean = vectors.mean(axis=0)
    assert nearest.mean() > (vectors @ one_mean - 0.5 * one_mean @ one_mean).mean()


@given(seeds, st.integers(1, 250))
def test_how_many_items_are_held_at_a_time_changes_nothing(seed: int, at_a_time: int) -> None:
    vectors = unit_vectors(200, seed)
    wanted = summarise(vectors, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(personas, "ROWS_AT_A_TIME", at_a_time)
        found = summarise(vectors, 16)
    np.testing.assert_array_equal(found.counts, wanted.counts)
    np.testing.assert_array_equal(found.typical, wanted.typical)
    np.testing.assert_allclose(found.vectors, wanted.vectors, atol=1e-6)


def test_a_large_user_needs_little_more_than_his_vectors() -> None:
    vectors = unit_vectors(40_000, 3, 64)
    tracemalloc.start()
    summarise(vectors, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < vectors.nbytes
