"""JSONL and Parquet are known by their content and read row by row."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingesting import HISTORY, KINDS, NIGHT, TASK, item, items, jsonl, refused, rows

from embedder.errors import InputMissing
from pipelines.ingest import IngestResult, ingest_histories, ingest_tasks
from pipelines.intake import limits
from pipelines.tables.warehouse import Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


def test_blank_lines_line_ends_and_byte_order_marks_are_no_rows(warehouse: Warehouse, tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    line = json.dumps(item("a")).encode()
    file.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n   \n" + line.replace(b'"a"', b'"b"') + b"\nx\n\n")
    assert ingest_histories(warehouse, [file], NIGHT, KINDS) == IngestResult(3, 2, 1, changed=2)
    assert refused(warehouse) == [("h.jsonl:5", "broken_json")]


def test_a_line_without_end_is_refused_without_being_kept_in_memory(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LINE_BYTES", 300)
    file = jsonl(tmp_path / "h.jsonl", item("a"), b'{"user_id": "' + b"x" * 1_000 + b'"}', item("b"))
    assert ingest_histories(warehouse, [file], NIGHT, KINDS) == IngestResult(3, 2, 1, changed=2)
    assert refused(warehouse) == [("h.jsonl:2", "row_too_large")]


def parquet(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["h.parquet", "h.jsonl", "h"])
def test_parquet_is_known_by_its_content(name: str, warehouse: Warehouse, tmp_path: Path) -> None:
    moments = [datetime(2026, 11, 20, tzinfo=UTC), None, datetime(2026, 11, 20, 1, tzinfo=UTC)]
    file = parquet(
        tmp_path / name,
        user_id=pa.array(["u", "u", None]),
        item_id=pa.array(["a", "b", "c"]).dictionary_encode(),
        kind=pa.array(["LaMP_4"] * 3, pa.large_string()),
        posted_at=pa.array(moments, pa.timestamp("ns", "Europe/Berlin")),
        text=pa.array(["t", "t", "t"]),
        more=pa.array([1, 2, 3]),
    )
    assert ingest_histories(warehouse, [file], NIGHT, KINDS) == IngestResult(3, 1, 2, changed=1)
    assert refused(warehouse) == [(f"{name}:2", "missing_posted_at"), (f"{name}:3", "missing_user_id")]
    assert rows(warehouse, "select item_id, posted_at, output from histories") == [("a", datetime(2026, 11, 20), None)]


def test_numbers_become_the_texts_of_ids(warehouse: Warehouse, tmp_path: Path) -> None:
    texts = {name: pa.array([HISTORY[name]] * 3) for name in ("kind", "posted_at", "text")}
    ids = {"user_id": pa.array([1, 2, None]), "item_id": pa.array([1.0, 2.0, 3.0])}
    file = parquet(tmp_path / "h.parquet", **ids, **texts)
    assert ingest_histories(warehouse, [file], NIGHT, KINDS).rows_rejected == 1
    assert rows(warehouse, "select user_id, item_id from histories order by all") == [("1", "1"), ("2", "2")]


def test_choices_come_from_parquet_too(warehouse: Warehouse, tmp_path: Path) -> None:
    texts = {name: pa.array([TASK[name]]) for name in TASK}
    file = parquet(tmp_path / "t.parquet", choices=pa.array([["a", "b"]]), **texts)
    ingest_tasks(warehouse, [file], NIGHT, KINDS)
    assert rows(warehouse, "select choices from tasks") == [(["a", "b"],)]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("h.parquet", b"PAR1 and then nothing", "not_a_parquet_file"),
        ("h.parquet", b"PAR1", "not_a_parquet_file"),
        ("h.parquet", b"user_id,text\nu,t\n", "not_a_parquet_file"),
        ("h.jsonl", b"PAR1" + b"\0" * 100, "not_a_parquet_file"),
        ("h.jsonl", b"\x1f\x8b\x08\x00gzip", "broken_archive"),
        ("h.jsonl", json.dumps(HISTORY).encode("utf-16"), "unknown_format"),
        ("h.jsonl", b"\x7fELF\x00\x00", "unknown_format"),
    ],
)
def test_a_file_that_is_neither_is_one_reject(
    name: str, content: bytes, reason: str, warehouse: Warehouse, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert ingest_histories(warehouse, [tmp_path / name], NIGHT, KINDS) == IngestResult(1, 0, 1)
    assert refused(warehouse) == [(f"{name}:0", reason)]


def test_a_parquet_file_that_breaks_off_keeps_the_rows_before(warehouse: Warehouse, tmp_path: Path) -> None:
    table = pa.table({name: [value] * 4_000 for name, value in HISTORY.items()})
    table = table.set_column(1, "item_id", pa.array([str(number) for number in range(4_000)]))
    pq.write_table(table, tmp_path / "h.parquet", row_group_size=2_000, compression="none", use_dictionary=False)
    chunk = pq.read_metadata(tmp_path / "h.parquet").row_group(1).column(1)
    content = bytearray((tmp_path / "h.parquet").read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 40] = b"\xff" * 40
    (tmp_path / "h.parquet").write_bytes(content)
    assert ingest_histories(warehouse, [tmp_path / "h.parquet"], NIGHT, KINDS) == IngestResult(
        2_001, 2_000, 1, changed=2_000
    )
    assert refused(warehouse) == [("h.parquet:0", "broken_parquet")]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_no_rows_and_the_tables_are_there(
    content: bytes, warehouse: Warehouse, tmp_path: Path
) -> None:
    (tmp_path / "h.jsonl").write_bytes(content)
    assert ingest_histories(warehouse, [tmp_path / "h.jsonl"], NIGHT, KINDS) == IngestResult()
    assert warehouse.versions() == {"histories": 0, "deletions": 0, "rejects": 0, "runs": 1}


def test_a_parquet_file_without_rows_or_columns_of_ours_is_no_error(warehouse: Warehouse, tmp_path: Path) -> None:
    file = parquet(tmp_path / "h.parquet", other=pa.array([1, 2]))
    assert ingest_histories(warehouse, [file], NIGHT, KINDS) == IngestResult(2, 0, 2)
    assert {reason for _, reason in refused(warehouse)} == {"missing_user_id"}


def test_a_folder_without_data_is_missing(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="no file in"):
        ingest_histories(warehouse, [tmp_path], NIGHT, KINDS)
