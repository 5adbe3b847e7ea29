from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.errors import PplugError
from pipelines.nights.shards import Receipt, Shard, ShardFolder, cut_shards, remove_shards, tokens_since
from pipelines.tables.schema import file_schema
from pipelines.tables.warehouse import Warehouse

users = st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 50), max_size=30)


@given(users, st.integers(1, 60))
def test_every_user_is_in_exactly_one_shard_and_none_is_split(sizes: dict[str, int], most: int) -> None:
    shards = cut_shards(sorted(sizes.items()), most)
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert sum(shard.row_count for shard in shards) == sum(sizes.values())
    for user, size in sizes.items():
        (home,) = [shard for shard in shards if shard.first_user <= user <= shard.last_user]
        assert home.row_count >= size
        assert home.row_count <= most or home.first_user == home.last_user


def folder_of(root: Path, fingerprint: str = "f1") -> ShardFolder:
    return ShardFolder.of(Warehouse(root), "encode", date(2026, 11, 1), fingerprint)


def rejects(count: int) -> pa.Table:
    schema = file_schema("rejects")
    row = dict.fromkeys(schema.names, "x")
    return pa.Table.from_pylist([row] * count, schema=schema)


def test_a_shard_is_done_once_its_receipt_is_there(tmp_path: Path) -> None:
    folder, shards = folder_of(tmp_path), cut_shards([("a", 2), ("b", 3)], 2)
    assert folder.receipt(shards[0]) is None
    with pytest.raises(PplugError, match="2 of 2 shards are unfinished"):
        folder.finish(shards)
    for shard in shards:
        receipt = Receipt(shard.index, shard.row_count, shard.row_count - 1, 1, 7, 0.5)
        folder.write(shard, {"rejects": rejects(shard.index)}, receipt)
        found = folder.verified(shard)
        assert found is not None
        assert replace(found, files={}) == receipt
    receipts = folder.finish(shards)
    assert [receipt.rows_in for receipt in receipts] == [2, 3]
    assert folder.files(receipts, "rejects") == [folder.file(shards[1], "rejects")]  # without rows there is no file
    folder.remove()
    assert folder.receipt(shards[0]) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0" * 90,
        "null",
        "[]",
        "{}",
        '{"index": 0, "rows_in": 2, "rows_out": 1, "rows_rejected": 1, "tokens": 7, "seconds": 0.5}',  # names no files
        '{"index": 0, "rows_in": 2, "rows_out": 1, "rows_rejected": 1, "tokens": 7, "seconds": 0.5, "files": {"a": 1}}',
    ],
)
def test_a_receipt_that_cannot_be_checked_is_none(text: str, tmp_path: Path) -> None:
    folder, shard = folder_of(tmp_path), Shard(0, "u", "v", 2)
    folder.path.mkdir(parents=True)
    (folder.path / "00000.json").write_text(text, encoding="utf8")
    assert folder.receipt(shard) is None
    assert folder.unfinished([shard]) == [shard]
    assert list(folder.path.iterdir()) == []
    assert tokens_since(Warehouse(tmp_path), "encode", date(2026, 11, 1), datetime(1970, 1, 2, tzinfo=UTC)) == 0


def test_only_the_shards_of_a_published_night_go(tmp_path: Path) -> None:
    warehouse, nights = Warehouse(tmp_path), [date(2026, 11, 1), date(2026, 11, 2)]
    folders = [ShardFolder.of(warehouse, job, ds, f) for job in "ab" for ds in nights for f in "xy"]
    shard = Shard(0, "u", "v", 1)
    for folder in folders:
        folder.write(shard, {}, Receipt(0, 1, 1, 0, 7, 0.5))
    remove_shards(warehouse, "a", nights[0])
    assert [folder.receipt(shard) is not None for folder in folders] == [False, False, *[True] * 6]


def test_no_rows_give_no_shards() -> None:
    assert cut_shards([], 10) == list[Shard]()
