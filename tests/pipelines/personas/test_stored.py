from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from one_night import encode_night, live_paths
from small_night import ITEMS, NIGHT, item, task

from embedder.errors import PplugError
from llm_jobs.kinds import Kind
from pipelines.answers.queue import queued_tasks
from pipelines.encode import EncodeConfig
from pipelines.personas.asked import seeing_only
from pipelines.personas.nights import encoded_nights, newest_nights
from pipelines.personas.stored import read_personas
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

Fill = Callable[..., Warehouse]
TAGS = ("red", "blue", None)


def nights_of(warehouse: Warehouse) -> dict[str, Any]:
    nights = encoded_nights(warehouse)
    return newest_nights(nights, NIGHT, nights[-1].encoder_sha256).params


@pytest.mark.parametrize("most", [64, 4])
def test_all_labels_of_a_history_stand_behind_its_vectors(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, most: int
) -> None:
    items: list[dict[str, Any]] = [
        item(user, at, f"{'apples' if at % 2 else 'a boat'} {at}", TAGS[at % 3], day=40 - at)
        for user, count in (("ann", 14), ("bob", 2))
        for at in range(count)
    ]
    warehouse = fill(items, [task("t", "ann", "pears"), task("u", "bob", "pears"), task("v", "eve", "pears")])
    encode_night(warehouse, NIGHT, replace(encode_config, max_vectors=most), kinds)
    with connect(warehouse) as db:
        found = {one.user_id: one.history for one in queued_tasks(db, NIGHT, nights_of(warehouse), ("", "~"), 32)}
    for user, count in (("ann", 14), ("bob", 2)):
        history = found[user]
        assert (len(history.vectors) < count) == (most < count)
        labels = [TAGS[at % 3] for at in range(count)]
        past = history.past
        assert [past.names[at] for at in past.newest] == [label for label in labels if label]
        totals = dict(zip(past.names, (history.counts @ past.shares).tolist(), strict=True))
        assert totals == pytest.approx({name: labels.count(name) for name in past.names}, abs=1e-5)
        if len(history.vectors) == count:
            wanted = [[float(name == label) for name in past.names] for label in labels]
            np.testing.assert_array_equal(past.shares, wanted)
    assert found["eve"].past.names == ()


@pytest.mark.parametrize("most", [64, 8, 1])
def test_the_view_of_personas_and_the_workers_see_the_same(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, most: int
) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, NIGHT, replace(encode_config, max_vectors=most), kinds)
    with connect(warehouse) as db:
        rows = {row["user_id"]: row for row in db.sql("from personas").to_arrow_table().to_pylist()}
        read = read_personas(db, nights_of(warehouse), ["ann", "bob", "cid", "nobody"], 32)
    assert rows.keys() == read.keys() == {"ann", "bob", "cid"}
    for user, row in rows.items():
        history, items, _ = read[user]
        scaled = np.array(row["vectors"]) * np.array(row["vector_scales"], np.float32)[:, None]
        np.testing.assert_allclose(history.vectors, scaled, atol=1e-7)
        assert row["counts"] == history.counts.tolist()
        assert row["items"] == items
        assert row["newest_labels"] == [history.past.names[at] for at in history.past.newest]
        for counts, size, shares in zip(row["label_counts"], row["counts"], history.past.shares, strict=True):
            known = {one["label"]: one["count"] / size for one in counts}
            assert [known.get(name, 0) for name in history.past.names] == pytest.approx(shares.tolist())
        mean = history.counts @ history.vectors
        np.testing.assert_allclose(row["persona"], mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.parametrize("most", [64, 1])
def test_pages_of_large_tables_hold_the_same_as_all_their_rows(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, NIGHT, replace(encode_config, max_vectors=most), kinds)
    nights, found = nights_of(warehouse), list[Any]()
    for large_bytes in (2**40, 0):
        monkeypatch.setattr("pipelines.tables.views.LARGE_BYTES", large_bytes)
        with connect(warehouse) as db:
            assert bool(db.sql("from large_files").fetchall()) == (large_bytes == 0)
            read = [read_personas(db, nights, users, 32) for users in (["bob", "nobody"], ["ann", "cid"], [])]
            with seeing_only(db, ["ann", "bob"]):
                read.append(db.sql("from personas order by user_id").fetchall())
            with np.printoptions(threshold=10**9):
                found.append(repr(read))
    assert found[0] == found[1]


def test_a_lost_file_of_a_large_table_is_told_in_one_line(night: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tables.views.LARGE_BYTES", 0)
    with connect(night) as db:
        live_paths(night, "history_vectors")[0].unlink()
        with pytest.raises(PplugError, match=r"a file of the warehouse cannot be read .*restore it and run again$"):
            read_personas(db, nights_of(night), ["ann"], 32)
