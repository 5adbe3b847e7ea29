"""Many nights, one after the other, equal one rebuild of the last."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
from one_night import encode_night
from small_night import NIGHT, item

from llm_jobs.kinds import Kind
from pipelines.encode import EncodeConfig
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

Fill = Callable[..., Warehouse]
Item = dict[str, Any]
NIGHTS = 16


def change_of_a_night(chance: random.Random, there: dict[str, Item], night: int) -> list[Item]:
    """New items, late ones posted long ago, changed texts and deleted items; `there` is what is left of all so far."""
    user = chance.choice(["ann", "bob", "cid", "dan"])
    number = len(there) + 1000 * night
    rows = [
        item(user, number, f"word {chance.random()}", "red", day=-night),
        item(user, number + 1, "late", "blue", 400),
    ]
    rows[0]["posted_at"] = (NIGHT + timedelta(days=night)).isoformat()
    for old in chance.sample(sorted(there), min(2, len(there))):
        rows.append(there[old] | {"text": f"changed {chance.random()}"})
    changed = {row["item_id"] for row in rows}
    gone = [old for old in chance.sample(sorted(there), min(2, len(there))) if old not in changed]
    there |= {row["item_id"]: row for row in rows}
    return rows + [there.pop(old) | {"deleted": True} for old in gone[: night % 2]]


def personas(warehouse: Warehouse, night: int) -> list[Item]:
    with connect(warehouse) as db:
        query = f"select * exclude (run_id) from personas_at(date '{NIGHT + timedelta(days=night)}') order by user_id"
        return db.sql(query).to_arrow_table().to_pylist()


def test_many_incremental_nights_equal_a_rebuild_of_the_last(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    chance, there = random.Random(5), dict[str, Item]()
    tokens = list[int]()
    for night in range(NIGHTS):
        ds = NIGHT + timedelta(days=night)
        warehouse = fill(change_of_a_night(chance, there, night), ds=ds)
        tokens.append(encode_night(warehouse, ds, encode_config, kinds).tokens)
    last = NIGHTS - 1
    rebuilt = fill(list(there.values()), ds=NIGHT + timedelta(days=last), name="rebuilt")
    record = encode_night(rebuilt, NIGHT + timedelta(days=last), encode_config, kinds)
    assert tokens[-1] < record.tokens / 5, "a night encodes what is new"
    ours, theirs = personas(warehouse, last), personas(rebuilt, last)
    assert [row["user_id"] for row in ours] == [row["user_id"] for row in theirs]
    assert max(row["item_count"] for row in ours) > encode_config.max_vectors, "some vectors are merged"
    for left, right in zip(ours, theirs, strict=True):
        for name in left.keys() - {"persona", "vectors", "vector_scales"}:
            assert left[name] == right[name], name
        np.testing.assert_allclose(left["persona"], right["persona"], atol=1e-5)
        np.testing.assert_allclose(left["vector_scales"], right["vector_scales"], atol=1e-7)
        np.testing.assert_array_equal(left["vectors"], right["vectors"])
