import hashlib

from hypothesis import given
from hypothesis import strategies as st

from llm_jobs.training.data import Example, Prepared, split_users
from pipelines.slices import ALL, HISTORY_LENGTHS, ORDER, is_unseen, slices_of

BOUNDS = {"history 0": (0, 0), "history 1-3": (1, 3), "history 4-15": (4, 15), "history 16-63": (16, 63)}


@given(st.text(max_size=8), st.integers(0, 200), st.booleans())
def test_every_task_is_in_all_and_in_one_slice_of_length_and_seen_or_not(
    user_id: str, item_count: int, has_unseen: bool
) -> None:
    found = slices_of(user_id, item_count, has_unseen=has_unseen)
    wanted = next((name for name, (low, high) in BOUNDS.items() if low <= item_count <= high), "history 64+")
    assert found[:2] == [ALL, wanted]
    assert found[2:] == ([["seen", "unseen"][is_unseen(user_id)]] if has_unseen else [])
    assert set(found) <= set(ORDER)
    assert set(HISTORY_LENGTHS) == {*BOUNDS, "history 64+"}


def test_one_user_in_five_is_unseen_and_that_says_nothing_of_who_tells_training_to_stop() -> None:
    import numpy as np

    from llm_jobs.prompts import PromptParts

    users = [f"user-{number}" for number in range(4000)]
    unseen = [user for user in users if is_unseen(user)]
    assert 0.17 < len(unseen) / len(users) < 0.23
    nothing = np.zeros((1, 1), np.float32)
    prepared = [
        Prepared(Example(user, "", "", nothing[0], nothing), PromptParts((), ()), ())
        for user in users
        if user in unseen
    ]
    _, held_out = split_users(prepared, 0.1)
    assert 0.05 < len(held_out) / len(unseen) < 0.16


@given(st.text(max_size=8))
def test_the_choice_is_that_of_the_hash_as_documented(user_id: str) -> None:
    digest = hashlib.sha256(b"unseen user " + user_id.encode("utf8", "replace")).hexdigest()
    assert is_unseen(user_id) == (int(digest[:8], 16) < 0.2 * 2**32)
