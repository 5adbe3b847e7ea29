"""What is left of a night that was not published is believed only where it is what was written."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from small_night import ITEMS, NIGHT, TASKS

from embedder.errors import PplugError
from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig, encode_night
from pipelines.expire import expire_nights
from pipelines.generate import generate_night
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

Fill = Callable[..., Warehouse]


def personas(warehouse: Warehouse) -> list[tuple[str, int]]:
    with connect(warehouse) as db:
        return db.sql("select user_id, item_count from persona_vectors order by all").fetchall()


def swapped(one: Path, other: Path) -> None:
    """Let two files change places."""
    between = one.with_suffix(".between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a file is gone": lambda folder: (folder / "00000.persona_vectors.parquet").unlink(),
    "a file is empty": lambda folder: (folder / "00000.persona_vectors.parquet").write_bytes(b""),
    "shards have changed places": lambda folder: swapped(
        folder / "00000.persona_vectors.parquet", folder / "00001.persona_vectors.parquet"
    ),
    "a shard is doubled": lambda folder: shutil.copy(
        folder / "00000.persona_vectors.parquet", folder / "00001.persona_vectors.parquet"
    ),
    "tables have changed places": lambda folder: swapped(
        folder / "00000.persona_vectors.parquet", folder / "00000.history_vectors.parquet"
    ),
    "a receipt is empty": lambda folder: (folder / "00000.json").write_bytes(b""),
    "a receipt is of another shard": lambda folder: shutil.copy(folder / "00000.json", folder / "00001.json"),
    "an old file lies beside": lambda folder: shutil.copy(
        folder / "00000.persona_vectors.parquet", folder / "00007.persona_vectors.parquet"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_shard_that_is_not_as_it_was_written_is_done_again(
    damage: str, fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    in_the_way = warehouse.folder("history_vectors") / f"ds={NIGHT}"
    in_the_way.parent.mkdir()
    in_the_way.write_text("the night cannot be published")
    with pytest.raises(PplugError, match="cannot be written"):
        encode_night(warehouse, NIGHT, encode_config, kinds)
    (folder,) = (warehouse.root / "_shards" / "encode" / str(NIGHT)).iterdir()
    in_the_way.unlink()
    DAMAGES[damage](folder)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    assert personas(warehouse) == [("ann", 12), ("bob", 6), ("cid", 1)]


def test_a_night_whose_rows_are_no_longer_there_is_not_done(
    fill: Fill, plug: Path, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    warehouse = fill(ITEMS, TASKS)
    encode_night(warehouse, NIGHT, encode_config, kinds)
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
    with connect(warehouse) as db:
        found = db.execute("select count(*) from persona_vectors where ds = $ds", {"ds": NIGHT}).fetchall()
    assert found == [(3,)]
