"""What is left of a night that was not published is believed only where it is what was written."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from one_night import encode_night, generate_night
from small_night import ITEMS, NIGHT

from embedder.errors import PplugError
from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig
from pipelines.expire import expire_nights
from pipelines.nights.job import Night
from pipelines.nights.runners import Runner
from pipelines.nights.shards import Shard
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

Fill = Callable[..., Warehouse]


def personas(warehouse: Warehouse) -> list[tuple[str, int]]:
    with connect(warehouse) as db:
        return db.sql("select user_id, item_count from personas order by all").fetchall()


def swapped(one: Path, other: Path) -> None:
    """Let two files change places."""
    between = one.with_suffix(".between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def data(warehouse: Warehouse, table: str, shard: int) -> Path:
    """The file of a shard that is finished and not published."""
    (found,) = warehouse.folder(table).glob(f"ds=*/*-{shard:05d}-*.parquet")
    return found


def manifest(warehouse: Warehouse, shard: int) -> Path:
    """What says that it is finished."""
    (found,) = (warehouse.root / "_shards" / "encode" / str(NIGHT)).glob(f"*/{shard:05d}.json")
    return found


DAMAGES: dict[str, Callable[[Warehouse], object]] = {
    "a file is gone": lambda w: data(w, "persona_vectors", 0).unlink(),
    "a file is empty": lambda w: data(w, "persona_vectors", 0).write_bytes(b""),
    "shards have changed places": lambda w: swapped(data(w, "history_vectors", 0), data(w, "history_vectors", 1)),
    "a shard is doubled": lambda w: shutil.copy(data(w, "history_vectors", 0), data(w, "history_vectors", 1)),
    "tables have changed places": lambda w: swapped(data(w, "persona_vectors", 0), data(w, "history_vectors", 0)),
    "a manifest is empty": lambda w: manifest(w, 0).write_bytes(b""),
    "a manifest is of another shard": lambda w: shutil.copy(manifest(w, 0), manifest(w, 1)),
    "a manifest says nothing": lambda w: manifest(w, 0).write_bytes(b"null"),
    "an old file lies beside": lambda w: shutil.copy(
        data(w, "persona_vectors", 0), data(w, "persona_vectors", 0).with_name("x-00007-y.parquet")
    ),
}


class NotPublished(Runner):
    """A runner that finishes every shard, and then something goes wrong."""

    def run(self, night: Night, shards: Sequence[Shard]) -> None:
        super().run(night, shards)
        raise PplugError("it cannot be published")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_shard_that_is_not_as_it_was_written_is_done_again(
    damage: str, fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse, config = fill(ITEMS), replace(encode_config, shard_items=13)  # ann fills a shard
    with pytest.raises(PplugError, match="cannot be published"):
        encode_night(warehouse, NIGHT, config, kinds, runner=NotPublished())
    DAMAGES[damage](warehouse)
    encode_night(warehouse, NIGHT, config, kinds)
    assert personas(warehouse) == [("ann", 12), ("bob", 6), ("cid", 1)]


def test_a_night_whose_rows_are_no_longer_there_is_not_done(
    night: Warehouse, plug: Path, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    warehouse = night
    generate_night(warehouse, NIGHT, [plug], generate_config, kinds)
    shutil.rmtree(warehouse.folder("persona_vectors"))  # their vectors are still there
    with pytest.raises(PplugError, match="run `pplug encode --ds 2026-11-02`"):
        generate_night(warehouse, NIGHT, [plug], generate_config, kinds)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    assert personas(warehouse) == [("ann", 12), ("bob", 6), ("cid", 1)]
    generate_night(warehouse, NIGHT, [plug], generate_config, kinds)


def test_an_expired_night_can_be_encoded_again(fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig) -> None:
    warehouse = fill(ITEMS)
    for night in (NIGHT, NIGHT + timedelta(days=1)):
        encode_night(warehouse, night, encode_config, kinds)
    expire_nights(warehouse, 1)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    assert personas(warehouse) == [("ann", 12), ("bob", 6), ("cid", 1)]
