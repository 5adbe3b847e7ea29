import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.compact import CompactVectors, FloatArray
from embedder.histories import RECENT_ITEMS
from embedder.personas import Items, Summary, k_means, merge


def unit_vectors(count: int, seed: int, width: int = 8) -> FloatArray:
    vectors = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def unit(vector: FloatArray) -> FloatArray:
    return vector / np.linalg.norm(vector)


counts = st.integers(1, 90)
seeds = st.integers(0, 2**32 - 1)
limits = st.integers(1, 40)


def assert_equal(ours: Summary, theirs: Summary) -> None:
    np.testing.assert_array_equal(ours.vectors.codes, theirs.vectors.codes)
    np.testing.assert_array_equal(ours.vectors.scales, theirs.vectors.scales)
    np.testing.assert_array_equal(ours.counts, theirs.counts)
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    rest = [(one.typical, one.labels, one.newest_labels, one.last, one.items_sha256) for one in (ours, theirs)]
    assert rest[0] == rest[1]


def items_of(count: int, seed: int, width: int = 8) -> Items:
    """Items, two thirds of them with one of three labels."""
    labels = [[None, "red", "blue", "green"][at] for at in np.random.default_rng(seed).integers(0, 4, count)]
    return Items.of(unit_vectors(count, seed, width), labels)


def whole(vectors: FloatArray, most: int) -> Summary:
    return Summary.empty(vectors.shape[1]).absorb(Items.of(vectors), most)


def numbers(persona: Summary) -> list[int]:
    return [int(item_id) for _, item_id in persona.typical]


@given(counts, seeds, limits)
def test_no_item_is_lost(count: int, seed: int, most: int) -> None:
    persona = whole(unit_vectors(count, seed), most)
    assert persona.item_count == count
    assert (persona.counts > 0).all()
    assert len(persona.vectors) == len(persona.counts) == len(persona.typical) <= most
    assert len(set(persona.typical)) == len(persona.typical)
    assert set(numbers(persona)) <= set(range(count))


@given(counts, seeds, limits, st.lists(st.integers(1, 30), max_size=10))
def test_items_that_come_later_make_the_same_persona_as_all_at_once(
    count: int, seed: int, most: int, parts: list[int]
) -> None:
    items, persona, start = items_of(count, seed), Summary.empty(8), 0
    for size in [*parts, count]:
        persona, start = persona.absorb(items[start : start + size], most), start + size
    assert_equal(persona, Summary.empty(8).absorb(items, most))


@given(counts, seeds, limits, st.lists(st.integers(1, 30), max_size=10))
def test_a_stored_base_and_the_items_since_make_the_same_persona(
    count: int, seed: int, most: int, parts: list[int]
) -> None:
    items, base, since, stop = items_of(count, seed), Summary.empty(8), 0, 0
    for size in [*parts, count]:
        stop = min(count, stop + size)
        base, taken = base.condensed(items[since:stop], most)
        since += taken
        assert len(base.counts) + stop - since <= most
        assert_equal(base.with_items(items[since:stop]), Summary.empty(8).absorb(items[:stop], most))


@given(counts, seeds, limits)
def test_labels_stay_with_the_vectors_that_their_items_went_into(count: int, seed: int, most: int) -> None:
    items = items_of(count, seed)
    persona = Summary.empty(8).absorb(items, most)
    known = [label for label in items.labels if label is not None]
    assert sum((Counter(own) for own in persona.labels), Counter()) == Counter(known)
    assert all(sum(own.values()) <= size for own, size in zip(persona.labels, persona.counts, strict=True))
    past = persona.history().past
    assert [past.names[at] for at in past.newest] == known[-30:]
    totals = persona.counts @ past.shares
    assert dict(zip(past.names, totals.round().astype(int).tolist(), strict=True)) == Counter(known)


@given(counts, seeds, limits)
def test_the_mean_is_nearly_that_of_the_items(count: int, seed: int, most: int) -> None:
    items = items_of(count, seed)
    persona = Summary.empty(8).absorb(items, most)
    np.testing.assert_allclose(np.linalg.norm(persona.mean), 1, atol=1e-5)
    rounding = 0.02 * count  # a group may be rounded each time that it is merged
    total = items.vectors.floats().sum(axis=0)
    np.testing.assert_allclose(persona.counts @ persona.vectors.floats(), total, atol=rounding)


@given(st.integers(1, 20), seeds)
def test_every_item_stands_alone_while_they_fit(count: int, seed: int) -> None:
    items = items_of(count, seed)
    persona = Summary.empty(8).absorb(items, 20)
    assert not Summary.empty(8).condensed(items, 20)[1]
    np.testing.assert_array_equal(persona.vectors.codes, items.vectors.codes)
    assert persona.typical == tuple(items.keys)
    np.testing.assert_allclose(persona.mean, unit(items.vectors.floats().sum(axis=0)), atol=1e-5)


@given(st.integers(41, 400), seeds, st.integers(4 * RECENT_ITEMS, 100))
def test_the_newest_items_are_never_merged(count: int, seed: int, most: int) -> None:
    items = items_of(count, seed)
    persona = Summary.empty(8).absorb(items, most)
    newest = min(count, RECENT_ITEMS)
    assert persona.counts[-newest:].tolist() == [1] * newest
    np.testing.assert_array_equal(persona.vectors.codes[-newest:], items.vectors.codes[-newest:])
    assert numbers(persona)[-newest:] == list(range(count - newest, count))


def test_similar_items_share_a_vector_and_the_nearest_item_names_it() -> None:
    centres = np.eye(4, dtype=np.float32)
    vectors = np.repeat(centres, 10, axis=0) + unit_vectors(40, 1, 4) * 0.1
    items = CompactVectors.of(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    means, sizes, typical, members = merge(items, ones := np.ones(40, np.int64), k_means(items, ones, 4))
    assert sorted(at for own in members for at in own) == list(range(40))
    assert sizes.tolist() == [10, 10, 10, 10]
    found = items.floats()
    for mean, nearest in zip(means.floats(), typical, strict=True):
        distances = np.square(found - mean).sum(axis=1)
        np.testing.assert_allclose(mean, found[distances < 0.5].mean(axis=0), atol=0.01)
        assert distances[nearest] == pytest.approx(distances.min())


@given(st.lists(st.integers(1, 9), min_size=2, max_size=30), seeds, st.integers(1, 8))
def test_a_vector_of_many_items_weighs_as_much_as_they_would_one_by_one(sizes: list[int], seed: int, most: int) -> None:
    items = CompactVectors.of(unit_vectors(len(sizes), seed))
    means, merged, *_ = merge(items, np.array(sizes), k_means(items, np.array(sizes), most))
    assert merged.sum() == sum(sizes)
    np.testing.assert_allclose(merged @ means.floats(), sizes @ items.floats(), atol=0.01 * sum(sizes))


def test_vectors_that_cancel_out_still_give_a_finite_mean() -> None:
    persona = whole(np.array([[1, 0], [-1, 0]], np.float32), 64)
    np.testing.assert_allclose(persona.mean, [1, 0], atol=1e-6)


@given(seeds)
def test_merged_vectors_keep_more_of_the_items_than_one_mean_does(seed: int) -> None:
    vectors = unit_vectors(200, seed)
    merged = whole(vectors, 16).vectors.floats()
    nearest = np.max(vectors @ merged.T - 0.5 * (merged**2).sum(1), axis=1)
    one_mean = vectors.mean(axis=0)
    assert nearest.mean() > (vectors @ one_mean - 0.5 * one_mean @ one_mean).mean()


def test_a_large_user_needs_little_more_than_his_vectors() -> None:
    items = Items.of(unit_vectors(40_000, 3, 64))
    tracemalloc.start()
    Summary.empty(64).absorb(items, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < items.vectors.codes.nbytes


@given(st.integers(0, 90), seeds, st.integers(1, 30), st.integers(1, 60))
def test_no_vector_stands_for_fewer_items_than_asked_for_and_no_item_is_lost(
    count: int, seed: int, least: int, most: int
) -> None:
    whole = Summary.empty(8).absorb(items_of(count, seed), most)
    grouped = whole.in_groups(least)
    if count < least:
        assert grouped.item_count == len(grouped.vectors) == 0
        return
    assert grouped.item_count == count
    assert len(grouped.vectors) <= max(1, len(whole.vectors))
    assert not count or grouped.counts.min() >= least
    total = whole.counts @ whole.vectors.floats()
    np.testing.assert_allclose(grouped.counts @ grouped.vectors.floats(), total, atol=0.02 * max(1, count))
    assert sum(sum(labels.values()) for labels in grouped.labels) == sum(sum(own.values()) for own in whole.labels)


def test_the_newest_items_are_grouped_in_their_order() -> None:
    items = items_of(40, 3)
    grouped = Summary.empty(8).absorb(items, 100).in_groups(5)
    newest = items.vectors.floats()[-10:].reshape(2, 5, 8).mean(1)
    np.testing.assert_allclose(grouped.vectors.floats()[-2:], newest, atol=0.01)
    assert grouped.counts[-2:].tolist() == [5, 5]
