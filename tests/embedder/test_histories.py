import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.histories import RECENT_ITEMS, History, pad_histories, recent_mean


@given(st.integers(0, 3 * RECENT_ITEMS), st.integers(0, 1000))
def test_only_the_newest_items_count_as_recent(size: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((size, 4)).astype(np.float32)
    newest = [vectors[at] for at in range(size) if at >= size - RECENT_ITEMS]
    expected = np.mean(newest, axis=0) if newest else np.zeros(4)
    np.testing.assert_allclose(recent_mean(vectors, np.ones(size, np.float32)), expected, atol=1e-6)


@given(st.lists(st.integers(1, 2 * RECENT_ITEMS), max_size=2 * RECENT_ITEMS), st.integers(0, 1000))
def test_a_vector_of_many_items_counts_for_as_many_as_are_still_needed(counts: list[int], seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((len(counts), 4)).astype(np.float32)
    one_by_one = np.repeat(vectors, counts, axis=0)
    expected = one_by_one[-RECENT_ITEMS:].mean(axis=0) if counts else np.zeros(4)
    np.testing.assert_allclose(recent_mean(vectors, np.array(counts, np.float32)), expected, atol=1e-6)


def test_histories_of_different_lengths_are_padded_with_zeros() -> None:
    long, empty = History.of_items(np.ones((3, 2), np.float32)), History.empty(2)
    vectors, counts, recent = pad_histories([empty, long], 2)
    assert vectors.shape == (2, 3, 2)
    assert counts.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert recent.tolist() == [[0, 0], [1, 1]]
    assert vectors[0].abs().sum() == 0


@pytest.mark.parametrize("width", [1, 5])
def test_no_users_have_no_histories(width: int) -> None:
    vectors, counts, recent = pad_histories([], width)
    assert (vectors.shape, counts.shape, recent.shape) == ((0, 0, width), (0, 0), (0, width))
