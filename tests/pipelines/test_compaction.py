from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from one_night import encode_night
from small_night import ITEMS, NIGHT, item

from llm_jobs.kinds import Kind
from pipelines import compact
from pipelines.compact import compact_tables, compaction_pays
from pipelines.encode import EncodeConfig
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

Fill = Callable[..., Warehouse]
SHOWN = ("history_vectors", "persona_vectors", "personas", "rejects", "histories")


@pytest.fixture
def scattered(fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig) -> Warehouse:
    """A warehouse with a file for about each item."""
    warehouse = fill([*ITEMS, *(item("dan", at, f"word {at}", "red", day=40 - at) for at in range(12))])
    encode_night(warehouse, NIGHT, replace(encode_config, shard_items=1), kinds)
    return warehouse


def rows(warehouse: Warehouse) -> dict[str, list[tuple[Any, ...]]]:
    with connect(warehouse) as db:
        return {name: db.sql(f"from {name} order by all").fetchall() for name in SHOWN}


def test_a_night_has_few_files_of_the_same_rows_in_the_order_of_users(scattered: Warehouse) -> None:
    before, live = rows(scattered), len(scattered.live("history_vectors"))
    told = {
        (night["table"], night["file_count"], night["new_file_count"])
        for night in compact_tables(scattered, dry_run=True)
    }
    assert ("history_vectors", live, 1) in told
    assert len(scattered.live("history_vectors")) == live > 4
    compact_tables(scattered, reader_seconds=0)
    assert rows(scattered) == before
    for name in ("history_vectors", "persona_vectors"):
        (file,) = scattered.live(name)
        users = scattered.dataset(name, [file]).to_table()["user_id"].to_pylist()
        assert users == sorted(users)
        assert len(list(scattered.folder(name).rglob("*.parquet"))) == 1
    assert compact_tables(scattered, reader_seconds=0) == []


def test_files_that_are_large_stay_as_they_are(scattered: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    before, live = rows(scattered), scattered.live("history_vectors")
    most = max(file.size for file in live)
    monkeypatch.setattr(compact, "LARGE_BYTES", most)
    compact_tables(scattered, reader_seconds=0)
    large = {file for file in live if file.size == most}
    assert large < set(scattered.live("history_vectors"))
    assert len(scattered.live("history_vectors")) == len(large) + 1 < len(live)
    assert rows(scattered) == before


def test_a_night_that_is_done_stays_done_and_the_next_stands_on_it(
    scattered: Warehouse, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    config = replace(encode_config, shard_items=1)
    compact_tables(scattered, reader_seconds=0)
    assert "published_by" in encode_night(scattered, NIGHT, config, kinds).config
    assert encode_night(scattered, NIGHT + timedelta(days=1), config, kinds).rows_in == 0


def test_nightly_compacts_when_it_saves_enough(scattered: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not compaction_pays(scattered)
    monkeypatch.setattr(compact, "PAYS_FROM", 3)
    assert compaction_pays(scattered)
