from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pipelines.personas.past_labels import LabelledItem, labels_behind
from small_night import NIGHT, item, task

from llm_jobs.kinds import Kind
from pipelines.answers.queue import EVERYONE, queued_tasks
from pipelines.encode import EncodeConfig, encode_night
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

TAGS = ("red", "blue", None)


@pytest.mark.parametrize("most", [64, 4])
def test_all_labels_of_a_history_stand_behind_its_vectors(
    fill: Callable[..., Warehouse], kinds: dict[str, Kind], encode_config: EncodeConfig, most: int
) -> None:
    items: list[dict[str, Any]] = [
        item(user, at, f"{'apples' if at % 2 else 'a boat'} {at}", TAGS[at % 3], day=40 - at)
        for user, count in (("ann", 14), ("bob", 2))
        for at in range(count)
    ]
    warehouse = fill(items, [task("t", "ann", "pears"), task("u", "bob", "pears"), task("v", "eve", "pears")])
    encode_night(warehouse, NIGHT, EncodeConfig(**{**vars(encode_config), "max_vectors": most}), kinds)
    with connect(warehouse) as db:
        found = {one.user_id: one.history for one in queued_tasks(db, NIGHT, NIGHT, EVERYONE, 32)}
    for user, count in (("ann", 14), ("bob", 2)):
        history = found[user]
        assert (len(history.vectors) < count) == (most < count)
        labels = [TAGS[at % 3] for at in range(count)]
        assert [history.past.names[at] for at in history.past.newest] == [label for label in labels if label]
        assert (history.past.shares.sum(axis=1) <= 1 + 1e-6).all()
        if len(history.vectors) == count:
            for row, label in zip(history.past.shares, labels, strict=True):
                assert dict(zip(history.past.names, row, strict=True)) == {
                    name: float(name == label) for name in history.past.names
                }
        else:
            assert (history.past.shares.sum(axis=0) > 0).all()
    assert found["eve"].past.names == ()


def test_a_merged_item_counts_for_the_vector_it_is_most_like() -> None:
    vectors = np.array([[0.5, 0], [0, 2], [-1, 0]], np.float32)
    items = [
        LabelledItem(("note", "a"), "red", np.array([9, 1], np.float32)),
        LabelledItem(("note", "b"), "blue", np.array([3, 1], np.float32)),
        LabelledItem(("note", "c"), None, np.array([1, 0], np.float32)),
        LabelledItem(("note", "d"), "red", np.array([0, 1], np.float32)),
    ]
    typical = [{"kind": "note", "item_id": name} for name in ("a", "d", "b")]
    past = labels_behind(vectors, typical, items)
    assert past.names == ("red", "blue")
    np.testing.assert_allclose(
        past.shares, [[1 / 3, 1 / 3], [1, 0], [0, 1]]
    )  # nobody is like the last: its typical item
    assert past.newest == (0, 1, 0)
