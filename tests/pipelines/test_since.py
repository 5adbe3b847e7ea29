"""A night reads what changed since the one it stands on, and its personas equal those of a full night."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from one_night import encode_night
from small_night import ITEMS, NIGHT, item
from tiny_models import save_model, tiny_bert

from embedder.errors import PplugError
from llm_jobs.kinds import Kind
from pipelines.encode import EncodeConfig
from pipelines.personas import stored
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

Fill = Callable[..., Warehouse]
DAYS = [NIGHT + timedelta(days=number) for number in range(5)]


@pytest.fixture
def other_encoder(encode_config: EncodeConfig, tmp_path: Path) -> EncodeConfig:
    folder = save_model(tmp_path / "other", tiny_bert(9), is_chat=False)
    return replace(encode_config, encoder=str(folder))


def personas(warehouse: Warehouse, ds: date) -> list[tuple[Any, ...]]:
    with connect(warehouse) as db:
        columns = "user_id, vectors, counts, items, item_count, first_posted_at, last_posted_at, label_counts"
        return db.sql(f"select {columns} from personas_at(date '{ds}') order by user_id").fetchall()


def full(warehouse: Warehouse, ds: date, config: EncodeConfig, kinds: dict[str, Kind]) -> list[tuple[Any, ...]]:
    """The personas of a night that reads everything anew."""
    record = encode_night(warehouse, ds, config, kinds, force=True)
    assert record.config["is_full"]
    return personas(warehouse, ds)


def test_a_night_in_which_nothing_changed_writes_nothing(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, DAYS[0], encode_config, kinds)
    record = encode_night(warehouse, DAYS[1], encode_config, kinds)
    assert (record.rows_in, record.rows_out, record.tokens) == (0, 0, 0)
    assert {file.ds for file in warehouse.live("history_vectors")} == {DAYS[0]}
    assert personas(warehouse, DAYS[1]) == personas(warehouse, DAYS[0]) != []
    assert personas(warehouse, DAYS[0] - timedelta(days=1)) == []


def test_new_changed_deleted_and_late_items_make_the_personas_of_a_full_night(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, DAYS[0], encode_config, kinds)
    changes = [
        item("ann", 50, "new", "blue"),
        item("ann", 51, "late", "blue", day=300),
        ITEMS[0] | {"text": "changed"},
        ITEMS[13] | {"deleted": True},
        ITEMS[-1] | {"deleted": True},
    ]
    fill(changes, ds=DAYS[1])
    record = encode_night(warehouse, DAYS[1], encode_config, kinds)
    assert record.rows_in == record.rows_out == len(changes)
    assert record.config["gone_count"] == 2
    found = personas(warehouse, DAYS[1])
    assert [row[0] for row in found] == ["ann", "bob"], "the last item of cid went"
    assert found == full(warehouse, DAYS[1], encode_config, kinds)


def test_an_item_that_is_dated_later_is_read_in_its_night(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill([*ITEMS, item("cid", 99, "not yet", "red", day=-2)])
    for day, count in zip(DAYS, (len(ITEMS), 0, 1, 0), strict=False):
        assert encode_night(warehouse, day, encode_config, kinds).rows_out == count
    assert personas(warehouse, DAYS[3]) == full(warehouse, DAYS[3], encode_config, kinds)


def test_items_of_a_kind_that_reads_otherwise_are_encoded_anew(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill([*ITEMS, item("cid", 7, "a title", None) | {"kind": "LaMP_5"}])
    encode_night(warehouse, DAYS[0], encode_config, kinds)
    other = kinds | {"note": replace(kinds["note"], item_text="{text} tagged {output}")}
    assert encode_night(warehouse, DAYS[1], encode_config, other).rows_out == len(ITEMS)
    assert personas(warehouse, DAYS[1]) == full(warehouse, DAYS[1], encode_config, other)


def test_a_kind_that_is_gone_takes_its_items_along_and_brings_them_back(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill([*ITEMS, item("ann", 70, "x", None) | {"kind": "LaMP_5"}])
    fewer = {name: kind for name, kind in kinds.items() if name != "LaMP_5"}
    for day, known in zip(DAYS, (kinds, fewer, kinds, fewer), strict=False):
        record = encode_night(warehouse, day, encode_config, known)
        assert record.rows_rejected == (known is fewer)
        assert ("LaMP_5" in str(personas(warehouse, day))) == (known is kinds)
    assert personas(warehouse, DAYS[3]) == full(warehouse, DAYS[3], encode_config, fewer)


def test_what_was_ingested_for_a_later_night_waits_for_it(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, DAYS[0], encode_config, kinds)
    fill([item("dan", 0, "tomorrow", "red"), ITEMS[0] | {"text": "changed"}], ds=DAYS[2])
    between = encode_night(warehouse, DAYS[1], encode_config, kinds)
    assert (between.rows_in, between.config["gone_count"]) == (1, 1), "the text of that night is there no more"
    assert "dan" not in str(personas(warehouse, DAYS[1]))
    encode_night(warehouse, DAYS[2], encode_config, kinds)
    assert personas(warehouse, DAYS[2]) == full(warehouse, DAYS[2], encode_config, kinds)


def test_a_night_that_is_run_again_tells_of_those_that_stood_on_it(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse = fill(ITEMS)
    for day in DAYS[:3]:
        encode_night(warehouse, day, encode_config, kinds)
    fill([item("bob", 80, "forgotten", "blue", day=200)], ds=DAYS[1])
    with caplog.at_level(logging.WARNING):
        encode_night(warehouse, DAYS[1], encode_config, kinds)
    assert f"`pplug backfill encode --start {DAYS[2]} --end {DAYS[2]}`" in caplog.text
    assert "published_by" not in encode_night(warehouse, DAYS[2], encode_config, kinds).config
    assert personas(warehouse, DAYS[2]) == full(warehouse, DAYS[2], encode_config, kinds)


def test_another_max_vectors_makes_a_full_night_without_the_encoder(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, DAYS[0], encode_config, kinds)
    record = encode_night(warehouse, DAYS[1], replace(encode_config, max_vectors=4), kinds)
    assert (record.rows_out, record.tokens, record.config["is_full"]) == (len(ITEMS), 0, True)
    assert max(len(row[1]) for row in personas(warehouse, DAYS[1])) <= 4


def test_nothing_counts_that_was_there_before_a_full_night_of_other_settings(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    for day, most in zip(DAYS, (8, 4, 8), strict=False):
        record = encode_night(warehouse, day, replace(encode_config, max_vectors=most), kinds)
        assert record.config["is_full"]
    assert personas(warehouse, DAYS[2]) == full(warehouse, DAYS[2], encode_config, kinds)


def test_an_earlier_night_of_another_encoder_is_refused(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, other_encoder: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    for day in DAYS[:2]:
        encode_night(warehouse, day, encode_config, kinds)
    with pytest.raises(PplugError, match=f"ds={DAYS[1]} was built with encoder"):
        encode_night(warehouse, DAYS[0], other_encoder, kinds, rebuild=True)
    assert encode_night(warehouse, DAYS[1], other_encoder, kinds, rebuild=True).config["is_full"]


def test_a_user_with_more_items_than_a_shard_takes_has_the_persona_of_one_shard(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PIECE_ITEMS", 3)
    small = replace(encode_config, shard_items=4, max_vectors=5)
    whale = [item("bob", 100 + number, f"text {number % 7}", "blue") for number in range(23)]
    warehouse = fill([*ITEMS, *whale])
    record = encode_night(warehouse, DAYS[0], small, kinds)
    assert record.rows_in == record.rows_out == len(ITEMS) + len(whale)
    first = personas(warehouse, DAYS[0])
    assert first == full(warehouse, DAYS[0], replace(small, shard_items=1_000), kinds)

    gone = [old | {"deleted": True} for old in whale[2:11]]
    fill([*gone, *(item("bob", 200 + number, "more", "red") for number in range(9))], ds=DAYS[1])
    encode_night(warehouse, DAYS[1], small, kinds)
    second = personas(warehouse, DAYS[1])
    assert second != first
    assert second == full(warehouse, DAYS[1], replace(small, shard_items=1_000), kinds)


def test_a_deletion_of_an_earlier_night_that_was_left_alone_takes_nothing_out_of_personas(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS, ds=DAYS[2])
    encode_night(warehouse, DAYS[2], encode_config, kinds)
    fill([ITEMS[0] | {"deleted": True}], ds=DAYS[1])
    record = encode_night(warehouse, DAYS[3], encode_config, kinds)
    assert record.rows_in == 0
    assert personas(warehouse, DAYS[3]) == full(warehouse, DAYS[3], encode_config, kinds)
