import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from one_night import encode_night, plan_encode
from small_night import ITEMS, NIGHT, item

from embedder.encoder import TextEncoder
from embedder.errors import InputMissing, PplugError
from llm_jobs.kinds import Kind
from pipelines.encode import EncodeConfig, EncodeJob, encode_job
from pipelines.nights.job import Night
from pipelines.nights.night import cut
from pipelines.nights.runners import Runner
from pipelines.nights.shards import Shard
from pipelines.tables.queries import run_checks
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

Fill = Callable[..., Warehouse]
NEXT_NIGHT = NIGHT + timedelta(days=1)


def rows_of(warehouse: Warehouse, table: str, ds: date = NIGHT) -> list[dict[str, Any]]:
    """The rows of a night of a table, or of `personas` as of a night."""
    source = f"personas_at(date '{ds}')" if table == "personas" else f"(from {table} where ds = date '{ds}')"
    with connect(warehouse) as db:
        return db.sql(f"select * exclude (run_id) from {source} order by all").to_arrow_table().to_pylist()


def vectors_of(warehouse: Warehouse, ds: date = NIGHT) -> list[dict[str, Any]]:
    with connect(warehouse) as db:
        relation = db.sql("from history_vectors where ds = $ds order by user_id, kind, item_id", params={"ds": ds})
        return relation.to_arrow_table().to_pylist()


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        for name in left:
            if name in ("persona", "vector_scale", "vector_scales"):
                np.testing.assert_allclose(np.array(left[name]), np.array(right[name]), atol=1e-5)
            else:
                assert left[name] == right[name], name


def test_every_persona_is_what_ten_lines_of_plain_python_say(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    encoder = TextEncoder.from_pretrained(encode_config.encoder)
    personas = {row["user_id"]: row for row in rows_of(warehouse, "personas")}
    assert sorted(personas) == ["ann", "bob", "cid"]
    for user, persona in personas.items():
        own = sorted(
            (row for row in ITEMS if row["user_id"] == user), key=lambda row: (row["posted_at"], row["item_id"])
        )
        vectors = np.stack([encoder.encode([f"{row['output']}\n{row['text']}"])[0] for row in own])
        mean = vectors.sum(0)
        np.testing.assert_allclose(persona["persona"], mean / np.linalg.norm(mean), atol=5e-3)
        assert persona["item_count"] == len(own) == sum(persona["counts"])
        if len(own) <= 8:
            scales = np.array(persona["vector_scales"])[:, None]
            np.testing.assert_allclose(np.array(persona["vectors"]) * scales, vectors, atol=0.51 * scales.max())
            assert [named["item_id"] for named in persona["items"]] == [row["item_id"] for row in own]
        else:
            assert len(persona["vectors"]) == len(persona["counts"]) == len(persona["items"]) <= 8


@pytest.mark.parametrize("force", [False, True])
def test_a_second_run_changes_nothing_but_the_run(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, force: bool
) -> None:
    warehouse = fill(ITEMS)
    first = encode_night(warehouse, NIGHT, encode_config, kinds)
    before = rows_of(warehouse, "personas"), vectors_of(warehouse)
    second = encode_night(warehouse, NIGHT, encode_config, kinds, force=force)
    assert_same(before[0], rows_of(warehouse, "personas"))
    assert_same(before[1], vectors_of(warehouse))
    assert (second.tokens > 0) == force
    assert first.rows_in == first.rows_out == second.rows_out == len(ITEMS)


@pytest.mark.beam
@pytest.mark.parametrize("shard_items", [1, 7, 1000])
def test_the_size_of_a_shard_is_irrelevant(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, shard_items: int
) -> None:
    whole, cut = fill(ITEMS, name="whole"), fill(ITEMS, name="cut")
    encode_night(whole, NIGHT, encode_config, kinds)
    encode_night(cut, NIGHT, replace(encode_config, shard_items=shard_items), kinds)
    assert_same(rows_of(whole, "personas"), rows_of(cut, "personas"))


def test_a_later_night_encodes_only_what_is_new_and_equals_a_rebuild(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    first = encode_night(warehouse, NIGHT, encode_config, kinds)
    changed = ITEMS[0] | {"text": "not apples at all"}
    late = [item("bob", 99, "an old boat", "blue", day=400), changed]
    fill(late, ds=NEXT_NIGHT)
    second = encode_night(warehouse, NEXT_NIGHT, encode_config, kinds)
    assert 0 < second.tokens < first.tokens / 2
    assert {row["item_id"] for row in vectors_of(warehouse, NEXT_NIGHT)} == {"bob-99", "ann-0"}
    rebuilt = fill([changed, *ITEMS[1:], late[0]], ds=NEXT_NIGHT, name="rebuilt")
    encode_night(rebuilt, NEXT_NIGHT, encode_config, kinds)
    assert_same(rows_of(warehouse, "personas", NEXT_NIGHT), rows_of(rebuilt, "personas", NEXT_NIGHT))


def test_nothing_from_after_the_night_is_read(fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig) -> None:
    warehouse = fill([*ITEMS, item("ann", 50, "posted tomorrow", "red", day=-1)])
    fill([item("dan", 0, "ingested tomorrow", "red", day=5)], ds=NEXT_NIGHT)
    record = encode_night(warehouse, NIGHT, encode_config, kinds)
    assert record.rows_in == len(ITEMS)
    assert [row["user_id"] for row in rows_of(warehouse, "personas")] == ["ann", "bob", "cid"]


def test_an_item_of_a_kind_that_is_gone_is_rejected_and_the_rest_encoded(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill([*ITEMS, item("ann", 70, "x", None) | {"kind": "LaMP_5"}])
    fewer = {name: kind for name, kind in kinds.items() if name != "LaMP_5"}
    record = encode_night(warehouse, NIGHT, encode_config, fewer)
    assert (record.rows_in, record.rows_out, record.rows_rejected) == (len(ITEMS) + 1, len(ITEMS), 1)
    rejects = [row for row in rows_of(warehouse, "rejects") if row["job"] == "encode"]
    assert [(row["row_id"], row["user_id"], row["reason"]) for row in rejects] == [
        ("LaMP_5/ann-70", "ann", "unknown_kind")
    ]


class OneShard(Runner):
    """A runner that loses all shards but the first."""

    def run(self, night: Night, shards: Sequence[Shard]) -> None:
        super().run(night, shards[:1])


@pytest.mark.beam
def test_what_a_failed_run_finished_is_not_done_again(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    undisturbed, warehouse = fill(ITEMS, name="undisturbed"), fill(ITEMS, name="failed")
    config = replace(encode_config, shard_items=13)  # ann fills a shard, bob and cid share one
    whole = encode_night(undisturbed, NIGHT, config, kinds)

    with pytest.raises(PplugError, match="1 of 2 shards are unfinished"):
        encode_night(warehouse, NIGHT, config, kinds, runner=OneShard())
    encode_night(warehouse, NIGHT, config, kinds)
    assert_same(rows_of(undisturbed, "personas"), rows_of(warehouse, "personas"))
    with connect(warehouse) as db:
        base = "select runs.status, user_id from persona_vectors join runs using (run_id)"
        assert db.sql(base).fetchall() == [("failed", "ann")]
        ((tokens,),) = db.sql("select sum(tokens) from runs where job = 'encode'").fetchall()
    assert tokens == whole.tokens
    assert not list((warehouse.root / "_shards").rglob("*.*"))


@pytest.mark.beam
def test_rejects_of_a_shard_that_an_earlier_run_finished_are_kept(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill([*ITEMS, item("ann", 70, "x", None) | {"kind": "LaMP_5"}])
    fewer = {name: kind for name, kind in kinds.items() if name != "LaMP_5"}
    config = replace(encode_config, shard_items=13)  # ann, and her reject, fill the first shard

    with pytest.raises(PplugError, match="1 of 2 shards are unfinished"):
        encode_night(warehouse, NIGHT, config, fewer, runner=OneShard())
    assert [row for row in rows_of(warehouse, "rejects") if row["job"] == "encode"] == []
    record = encode_night(warehouse, NIGHT, config, fewer)
    assert (record.rows_in, record.rows_out, record.rows_rejected) == (len(ITEMS) + 1, len(ITEMS), 1)
    assert [row["row_id"] for row in rows_of(warehouse, "rejects") if row["job"] == "encode"] == ["LaMP_5/ann-70"]


def test_equal_texts_are_encoded_once(fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig) -> None:
    once = encode_night(fill([item("ann", 0, "the same", "red")], name="a"), NIGHT, encode_config, kinds)
    often = [item("ann", at, "the same", "red") for at in range(9)]
    assert encode_night(fill(often, name="b"), NIGHT, encode_config, kinds).tokens == once.tokens


def test_a_plan_tells_the_work_and_writes_nothing(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    before = warehouse.versions()
    plan = plan_encode(warehouse, NIGHT, encode_config, kinds)
    assert warehouse.versions() == before
    record = encode_night(warehouse, NIGHT, encode_config, kinds)
    assert (plan.user_count, plan.row_count, plan.tokens) == (3, len(ITEMS), record.tokens)
    assert plan_encode(warehouse, NIGHT, encode_config, kinds).tokens == 0


def test_a_run_names_the_versions_that_hold_its_night(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    for ds in (NIGHT, NEXT_NIGHT):
        encode_night(warehouse, ds, encode_config, kinds)
    with connect(warehouse) as db:
        found = db.sql("select ds, versions from runs where job = 'encode' order by ds").fetchall()
    for _, said in found:
        files = {name: warehouse.live(name, json.loads(said)[name]) for name in EncodeJob.writes}
        with connect(warehouse, files) as db:
            assert db.sql("select max(ds) from history_vectors").fetchall() == [(NIGHT,)]
        assert warehouse.table("history_vectors", json.loads(said)["history_vectors"])


def test_an_empty_warehouse_says_what_to_run(
    tmp_path: Any, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = Warehouse(tmp_path / "w")
    with pytest.raises(InputMissing, match="pplug ingest histories"):
        encode_night(warehouse, NIGHT, encode_config, kinds)
    with connect(warehouse) as db:
        found = db.sql("select job, status, error from runs").fetchall()
    assert [row[:2] for row in found] == [("encode", "failed")]


def test_one_user_with_many_items_and_many_users_with_one(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    items = [item("hot", at, f"thing {at % 300}", "red", day=at % 50) for at in range(3000)]
    items += [item(f"u{at:03}", 0, f"once {at}", None) for at in range(200)]
    warehouse = fill(items)
    record = encode_night(warehouse, NIGHT, replace(encode_config, shard_items=400), kinds)
    personas = rows_of(warehouse, "personas")
    assert record.rows_out == sum(row["item_count"] for row in personas) == 3200
    assert {row["item_count"] for row in personas} == {1, 3000}


def test_the_tables_have_the_columns_of_the_contract(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    with connect(warehouse) as db:
        persona: pa.Table = db.sql("from persona_vectors").to_arrow_table()
        assert db.sql("from personas").columns == persona.schema.names
    assert persona.schema.names == [
        "user_id",
        "persona",
        "vectors",
        "counts",
        "items",
        "item_count",
        "first_posted_at",
        "last_posted_at",
        "items_sha256",
        "encoder_sha256",
        "run_id",
        "vector_scales",
        "label_counts",
        "newest_labels",
        "last_item",
        "ds",
    ]


def test_items_of_the_future_wait_for_their_night_and_are_counted(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill([*ITEMS, item("cid", 99, "not yet", "red", day=-1)])
    record = encode_night(warehouse, NIGHT, encode_config, kinds)
    assert (record.rows_out, record.config["later_item_count"]) == (len(ITEMS), 1)
    with connect(warehouse) as db:
        (row,) = run_checks(db, NIGHT)["items_of_the_future"].to_pylist()
    assert (row["item_count"], row["user_count"]) == (1, 1)


def test_long_texts_are_cut_into_more_shards(fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig) -> None:
    long = [item(f"user {n}", n, "word " * 4_000, "red") for n in range(6)]
    job = encode_job(replace(encode_config, shard_items=30), kinds)
    inputs = job.inputs(fill([*long, *ITEMS]), NIGHT)
    shards = cut(job, inputs)
    assert [shard.row_count for shard in shards] == [20, 3, 2]
    assert sum(shard.row_count for shard in shards) == len(long) + len(ITEMS)
    record = encode_night(inputs.warehouse, NIGHT, replace(encode_config, shard_items=30), kinds)
    assert record.rows_out == len(long) + len(ITEMS)
