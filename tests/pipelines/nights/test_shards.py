from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.nights.shards import Manifest, Shard, ShardFile, ShardLog, clear_night, cut_shards, data_name, with_files
from pipelines.store.folder import Folder
from pipelines.tables import parquet
from pipelines.tables.data_files import DataFile
from pipelines.tables.parquet import parquet_bytes
from pipelines.tables.warehouse import Warehouse

NIGHT = date(2026, 11, 1)

users = st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 50), max_size=30)


@given(users, st.integers(1, 60))
def test_every_user_is_in_exactly_one_shard_and_none_is_split(sizes: dict[str, int], most: int) -> None:
    cut = cut_shards([(user, size, size) for user, size in sorted(sizes.items())], most)
    assert [shard.index for shard in cut] == list(range(len(cut)))
    assert sum(shard.row_count for shard in cut) == sum(sizes.values())
    for user, size in sizes.items():
        (home,) = [shard for shard in cut if shard.first_user <= user <= shard.last_user]
        assert home.row_count >= size
        assert home.row_count <= most or home.first_user == home.last_user


def test_no_rows_give_no_shards() -> None:
    assert cut_shards([], 10) == list[Shard]()


@pytest.mark.parametrize("read", [16, parquet.FOOTER_BYTES])
def test_a_shard_names_the_files_that_may_hold_its_users(
    read: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "FOOTER_BYTES", read)
    warehouse = Warehouse(tmp_path)
    files = list[DataFile]()
    for number, who in enumerate((["ann", "bob"], ["bob", "dan"], ["éva", "\U0001f600"])):
        name, data = f"tasks/ds={NIGHT}/{number}.parquet", parquet_bytes(pa.table({"user_id": who}))
        warehouse.store.put(name, data)
        files.append(DataFile(name, NIGHT, len(data), 2))
    cut = [Shard(0, "a", "ann", 1), Shard(1, "bob", "cid", 2), Shard(2, "z", "\U0010ffff", 1)]
    found = [[file.name[-9] for file in shard.files["tasks"]] for shard in with_files(cut, warehouse, {"tasks": files})]
    assert found == [["0"], ["0", "1"], ["2"]]


def test_the_first_manifest_of_a_shard_counts(tmp_path: Path) -> None:
    log = ShardLog(Folder(tmp_path), "encode", NIGHT, "f1")
    first = Manifest(3, "r1", 2, 1, 1, 7, 0.5, {}, (ShardFile("tasks/ds=x/a.parquet", 1, 2, "s"),))
    assert log.manifest(3) is None
    assert log.add(first)
    assert not log.add(Manifest(3, "r2", 2, 2, 0, 7, 0.5))
    assert log.manifests() == {3: first}
    log.drop([3])
    assert log.finished() == set()


def test_only_the_work_of_a_published_night_goes_and_live_files_stay(tmp_path: Path) -> None:
    warehouse, nights = Warehouse(tmp_path), [NIGHT, date(2026, 11, 2)]
    data = parquet_bytes(pa.table({"user_id": ["a"]}))
    for job in ("a", "b"):
        for ds in nights:
            for work in ("x-10", "y-10-forced"):
                ShardLog(warehouse.store, job, ds, f"{job}{work}").add(Manifest(0, "r", 1, 1, 0, 7, 0.5))
                warehouse.store.put(data_name("tasks", ds, f"{job}{work}", 0, "0123abcd"), data)
    live = data_name("tasks", nights[0], "ax-10", 1, "0123abcd")
    warehouse.store.put(live, data)
    warehouse.publish("tasks", nights[0], "r", [DataFile(live, nights[0], len(data), 1)])
    clear_night(warehouse, "a", nights[0])
    left = [entry.name for entry in warehouse.store.list() if "_delta_log" not in entry.name]
    assert len([name for name in left if name.startswith("_shards")]) == 6
    own = [name for name in left if name.startswith(f"tasks/ds={nights[0]}/")]
    assert own == sorted(
        [live, *(data_name("tasks", nights[0], f"b{work}", 0, "0123abcd") for work in ("x-10", "y-10-forced"))]
    )
