import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.compact import LARGEST_CODE, ROUNDING_LOSS, CompactVectors, FloatArray

sizes = st.integers(1, 20)
seeds = st.integers(0, 2**32 - 1)


def some_vectors(count: int, seed: int, width: int = 384) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@given(sizes, seeds)
def test_no_number_is_off_by_more_than_half_a_step(count: int, seed: int) -> None:
    vectors = some_vectors(count, seed)
    compact = CompactVectors.of(vectors)
    assert (np.abs(compact.floats() - vectors) <= 0.5001 * compact.scales[:, None]).all()
    assert np.abs(compact.codes).max() <= LARGEST_CODE


@given(seeds)
def test_a_vector_and_its_rounding_have_nearly_one_direction(seed: int) -> None:
    vectors = some_vectors(100, seed)
    rounded = CompactVectors.of(vectors).floats()
    cosines = (vectors * rounded).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(rounded, axis=1)
    assert cosines.min() > 0.9999
    assert 1 - cosines.mean() == pytest.approx(ROUNDING_LOSS, rel=0.1)


def test_a_vector_with_one_large_number_takes_longer_steps() -> None:
    compact = CompactVectors.of(np.array([[1.0, *[0.001] * 383]], np.float32))
    assert compact.codes[0, 0] == LARGEST_CODE
    assert compact.scales[0] == pytest.approx(1 / LARGEST_CODE)


@pytest.mark.parametrize("width", [1, 384, 1_040, 1_041, 4_096])
def test_products_are_exact_at_any_width(width: int) -> None:
    codes = np.random.default_rng(0).integers(-LARGEST_CODE, LARGEST_CODE, (9, width), dtype=np.int8, endpoint=True)
    codes[0] = LARGEST_CODE
    compact = CompactVectors(codes, np.ones(9, np.float32))
    exact = codes.astype(np.int64) @ codes.astype(np.int64).T
    np.testing.assert_array_equal(compact.products(compact), exact)
    np.testing.assert_array_equal(compact.code_squares, np.diag(exact))


def test_a_vector_of_zeros_stays_one() -> None:
    assert not CompactVectors.of(np.zeros((1, 3), np.float32)).floats().any()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_rounded_in_silence(odd: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        CompactVectors.of(np.array([[0.5, odd]], np.float32))
