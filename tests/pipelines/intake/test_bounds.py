"""Rows of any size: what is too large is one reject, and memory stays bounded by bytes, not by rows."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingesting import HISTORY, KINDS, NEXT, NIGHT, item, items, jsonl, refused, rows
from one_night import live_paths

from pipelines.ingest import ingest_histories
from pipelines.intake import limits
from pipelines.tables import upsert
from pipelines.tables.warehouse import Warehouse

LARGE = 3 * 2**20


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


def test_a_line_that_is_too_long_is_one_reject(warehouse: Warehouse, tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    with file.open("wb") as out:
        for number in range(3):
            out.write(json.dumps(item(f"{number}", text="x" * 40_000_000)).encode() + b"\n")
            out.write(json.dumps(item(f"good {number}")).encode() + b"\n")
    result = ingest_histories(warehouse, [file], NIGHT, KINDS)
    assert (result.rows_in, result.rows_out, result.rows_rejected) == (6, 3, 3)
    assert refused(warehouse) == [(f"h.jsonl:{line}", "row_too_large") for line in (1, 3, 5)]


def test_a_row_with_a_text_that_is_too_large_is_one_reject(warehouse: Warehouse, tmp_path: Path) -> None:
    lines = [item("a"), item("b", text="x" * LARGE), item("c", output="x" * LARGE), item("d", user_id="x" * 2_000)]
    result = ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", *lines)], NIGHT, KINDS)
    assert (result.rows_out, result.rows_rejected) == (1, 3)
    expected = ["row_too_large", "row_too_large", "too_long_user_id"]
    assert refused(warehouse) == [(f"h.jsonl:{line}", reason) for line, reason in enumerate(expected, 2)]
    assert rows(warehouse, "select user_id from rejects order by row_id") == [("u",), ("u",), (None,)]


def test_a_few_kilobytes_of_parquet_that_unpack_to_gigabytes_are_refused_row_by_row(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    count = 2_000
    columns = {name: pa.array([value] * count) for name, value in HISTORY.items()}
    columns["item_id"] = pa.array([str(number) for number in range(count)])
    indices = pa.array([0, *[1] * (count - 1)], pa.int32())
    columns["text"] = pa.DictionaryArray.from_arrays(indices, pa.array(["fine", "x" * LARGE]))
    file = tmp_path / "h.parquet"
    pq.write_table(pa.table(columns), file, compression="zstd")
    assert file.stat().st_size < 50_000
    before = pa.total_allocated_bytes()
    result = ingest_histories(warehouse, [file], NIGHT, KINDS)
    assert (result.rows_out, result.rows_rejected) == (1, count - 1)
    assert {reason for _, reason in refused(warehouse)} == {"row_too_large"}
    assert pa.total_allocated_bytes() - before < 2**28


def test_long_texts_need_no_more_memory_than_short_ones(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsert, "MEMORY_LIMIT", "64MB")
    monkeypatch.setattr(limits, "BATCH_BYTES", 2**21)
    monkeypatch.setattr(upsert, "PART_BYTES", 2**22)
    texts = [f"{number:05d} " + "long " * 20_000 for number in range(600)]
    lines = [item(f"{n}", text=text, user_id=f"{n * 7919 % 600:03d}") for n, text in enumerate(texts)]
    file = jsonl(tmp_path / "h.jsonl", *lines)
    assert ingest_histories(warehouse, [file], NIGHT, KINDS).changed == 600
    changed = [{**line, "text": line["text"] + "!"} for line in lines[::2]]
    assert ingest_histories(warehouse, [jsonl(tmp_path / "2.jsonl", *changed)], NEXT, KINDS).changed == 300
    assert len(items(warehouse)) == 600
    for path in live_paths(warehouse, "histories"):
        groups = pq.ParquetFile(path)
        sizes = [groups.metadata.row_group(n).total_byte_size for n in range(groups.num_row_groups)]
        assert max(sizes) < 2**25
        users = pq.read_table(path, columns=["user_id"])["user_id"].to_pylist()
        assert users == sorted(users)


def test_a_column_twice_in_parquet_is_refused(warehouse: Warehouse, tmp_path: Path) -> None:
    names = [*HISTORY, "text"]
    table = pa.Table.from_arrays([pa.array([HISTORY[name]]) for name in names], names=names)
    pq.write_table(table, tmp_path / "h.parquet")
    assert ingest_histories(warehouse, [tmp_path / "h.parquet"], NIGHT, KINDS).rows_rejected == 1
    assert refused(warehouse) == [("h.parquet:0", "repeated_column")]
    assert items(warehouse) == []


@pytest.mark.parametrize(
    "content", ["é and more, a secret".encode("latin1"), b'{"text": "a secret", broken', b"a secret"]
)
def test_no_word_of_a_file_is_in_the_rejects(content: bytes, warehouse: Warehouse, tmp_path: Path) -> None:
    lines = [
        content,
        item(posted_at="a secret"),
        item(posted_at="\uff12\uff10-10-30"),
        item(kind="a secret"),
        item(deleted="a secret"),
        item(text=["a secret"]),
    ]
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", *lines)], NIGHT, KINDS)
    found = rows(warehouse, "select * from rejects")
    assert len(found) == len(lines)
    assert not any(word in str(found) for word in ("secret", "\uff12"))
