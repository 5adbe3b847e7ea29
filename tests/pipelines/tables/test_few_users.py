"""Of a file with vectors, whoever asks for few users reads their pages and nothing else."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tables.pages import rows_of_users
from pipelines.tables.parquet import parquet_bytes
from pipelines.tables.schema import file_schema

SCHEMA = file_schema("history_vectors")


def items(users: list[str], width: int = 8) -> pa.Table:
    draw, count = np.random.default_rng(0), len(users)
    columns = {
        "user_id": users,
        "kind": ["k"] * count,
        "item_id": [f"i{at}" for at in range(count)],
        "posted_at": pa.array(range(count), pa.timestamp("us", "UTC")),
        "vector": list(draw.integers(-127, 128, (count, width), np.int8)),
        "encoder_sha256": ["e"] * count,
        "item_sha256": [f"{at:064x}" for at in draw.integers(0, 2**62, count)],
        "vector_scale": draw.random(count, np.float32),
        "label": [None if at % 3 else f"l{at}" for at in range(count)],
        "is_deleted": [False] * count,
    }
    return pa.table(columns, SCHEMA)


@given(st.lists(st.sampled_from(["", "a", "it's", "a\x00b", "é", "😀", "z" * 40]), max_size=60), st.data())
def test_the_rows_are_those_of_the_users_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, users: list[str], data: st.DataObject
) -> None:
    asked = data.draw(st.sets(st.sampled_from([*users, "nobody"]), min_size=1))
    path = tmp_path_factory.mktemp("pages") / "a.parquet"
    table = items(users)
    path.write_bytes(parquet_bytes(table))
    found = rows_of_users(path, SCHEMA, sorted(asked))
    assert found.cast(SCHEMA).equals(table.sort_by("user_id").filter(pc.field("user_id").isin([*asked])))


def bytes_read() -> int:
    (line,) = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar")]
    return int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what a process reads")
def test_of_a_hundred_users_one_costs_a_few_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet_bytes(items([f"u{at // 20:04}" for at in range(6_000)], width=384)))
    every = [f"u{at:04}" for at in range(300)]
    rows_of_users(path, SCHEMA, every[:1])  # what is read once
    before = bytes_read()
    found = rows_of_users(path, SCHEMA, every[::100])
    assert found.num_rows == 60
    assert bytes_read() - before < path.stat().st_size / 20


def test_rows_are_in_memory_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet_bytes(items([f"u{at // 20:04}" for at in range(600)], width=384)))
    before = pa.total_allocated_bytes()
    found = rows_of_users(path, SCHEMA, ["u0007"])
    assert pa.total_allocated_bytes() - before >= found.nbytes  # else they keep what DataFusion read them among


def test_a_file_that_is_gone_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"gone\.parquet"):
        rows_of_users(tmp_path / "gone.parquet", SCHEMA, ["a"])


@pytest.mark.parametrize("name", ["it's", "a b", "a%20b", "a#b?c", "[a]", "a*b", "é😀", "ds=2026-11-01"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "a.parquet"
    path.parent.mkdir()
    path.write_bytes(parquet_bytes(items(["a", "b"])))
    assert rows_of_users(path, SCHEMA, ["b"]).num_rows == 1
