from hypothesis import given
from hypothesis import strategies as st

from pipelines.slices import ALL, HISTORY_LENGTHS, ORDER, slices_of

BOUNDS = {"history 0": (0, 0), "history 1-3": (1, 3), "history 4-15": (4, 15), "history 16-63": (16, 63)}


@given(st.integers(0, 200))
def test_every_task_is_in_all_and_in_one_slice_of_length(item_count: int) -> None:
    wanted = next((name for name, (low, high) in BOUNDS.items() if low <= item_count <= high), "history 64+")
    assert slices_of(item_count) == [ALL, wanted]
    assert set(ORDER) == {ALL, *HISTORY_LENGTHS} == {ALL, *BOUNDS, "history 64+"}
