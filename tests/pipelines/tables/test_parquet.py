"""Files are whole or not there, ordered and packed, and a full disk says so."""

import errno
import itertools
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.errors import PplugError
from pipelines.store.folder import named_causes
from pipelines.tables.parquet import VECTOR_LEAVES, write_batches, write_packed, write_shard
from pipelines.tables.schema import TABLES, file_schema


def vectors(*users: str) -> pa.Table:
    rows = [
        {
            "user_id": user,
            "kind": "k",
            "item_id": "i",
            "posted_at": 0,
            "vector": [95, 127],
            "vector_scale": 0.0063,
            "encoder_sha256": "e",
            "item_sha256": "s",
            "is_deleted": False,
        }
        for user in users
    ]
    return pa.Table.from_pylist(rows, schema=file_schema("history_vectors"))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError("LocalFileSystem: full (os error 28)")]
)
def test_a_full_disk_is_told_in_one_line(error: OSError, tmp_path: Path) -> None:
    with pytest.raises(PplugError, match="free some and run the command again") as told, named_causes(tmp_path):
        raise error
    assert told.value.__cause__ is error


def test_other_failures_of_a_disk_keep_their_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), named_causes(tmp_path):
        raise OSError(errno.EIO, "Input/output error")


def test_a_shard_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises((OSError, PplugError)):
        write_shard(tmp_path / "a.parquet", vectors("a"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_rows_of_a_shard_are_ordered_by_user_and_8_bit_vectors_are_packed_by_a_dictionary(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", vectors("c", "a", "b"))
    assert pq.read_table(tmp_path / "a.parquet").column("user_id").to_pylist() == ["a", "b", "c"]
    chunk = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    encodings = {chunk.column(index).path_in_schema: chunk.column(index).encodings for index in range(8)}
    assert "RLE_DICTIONARY" in encodings["vector.list.element"]


@given(st.lists(st.integers(0, 300), max_size=12))
def test_small_tables_fill_row_groups_together_and_no_row_is_lost(sizes: list[int]) -> None:
    names = iter(f"u{at:05}" for at in range(sum(sizes)))
    tables = [vectors(*itertools.islice(names, size)) for size in sizes]
    with tempfile.TemporaryDirectory() as folder:
        files = list(write_packed(Path(folder, "a"), vectors("a").schema, tables, 2**20))
        users = [user for file in files for user in pq.read_table(file)["user_id"].to_pylist()]
        groups = [pq.read_metadata(file).num_row_groups for file in files]
    assert users == [f"u{at:05}" for at in range(sum(sizes))]
    assert groups == ([1] if sum(sizes) else [])


def test_every_column_of_float_vectors_is_known() -> None:
    columns = {field.name for schema in TABLES.values() for field in schema if is_vector(field.type)}
    assert columns == set(VECTOR_LEAVES)


def is_vector(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and (pa.types.is_float32(kind.value_type) or is_vector(kind.value_type))


@pytest.mark.parametrize(("rows", "files"), [(0, 0), (1, 1), (4, 1), (5, 2), (9, 3)])
def test_batches_are_cut_into_files(rows: int, files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tables.parquet.FILE_ROWS", 4)
    table = vectors(*(str(number) for number in range(rows)))
    found = list(write_batches(tmp_path / "x", table.schema, table.to_batches(max_chunksize=2)))
    assert [user for path in found for user in pq.read_table(path)["user_id"].to_pylist()] == table[
        "user_id"
    ].to_pylist()
    assert sorted(tmp_path.iterdir()) == found
    assert len(found) == files


def test_a_published_file_of_the_same_name_is_not_written_into(tmp_path: Path) -> None:
    table = vectors("a")
    (first,) = write_batches(tmp_path / "x", table.schema, table.to_batches())
    (tmp_path / "published.parquet").hardlink_to(first)
    list(write_batches(tmp_path / "x", table.schema, vectors("b").to_batches()))
    assert pq.read_table(tmp_path / "published.parquet")["user_id"].to_pylist() == ["a"]
