"""JSONL and Parquet are known by their content and read row by row."""

import csv
import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingesting import HISTORY, KINDS, NIGHT, TASK, item, jsonl, refused, rows

from embedder.errors import InputMissing, UsageError
from pipelines.ingest import IngestConfig, IngestResult, ingest_histories, ingest_tasks
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


ROWS = [item("a"), item("b", text='with, "quotes"\nand a line'), item("c", output=None)]


def as_csv(delimiter: str) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(HISTORY), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


def as_parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


FORMS = {
    "h.jsonl": b"\n".join(json.dumps(row).encode() for row in ROWS),
    "h.json": json.dumps(ROWS, indent=1).encode(),
    "lines.json": b"[" + b",\n".join(json.dumps(row).encode() for row in ROWS) + b"]\n",
    "h.csv": as_csv(","),
    "excel.csv": b"\xef\xbb\xbf" + as_csv(";"),
    "h.tsv": as_csv("\t"),
    "csv.jsonl": as_csv(","),
    "h.parquet": as_parquet(),
}
PACKED = {"": bytes, ".gz": gzip.compress, ".zst": lambda content: pa.compress(content, "zstd", asbytes=True)}
CASES = [(name, ending) for name in FORMS for ending in PACKED if not (ending and name == "h.parquet")]


@pytest.mark.parametrize(("name", "ending"), CASES)
def test_every_form_holds_the_same_rows(name: str, ending: str, warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / f"{name}{ending}").write_bytes(PACKED[ending](FORMS[name]))
    assert ingest_histories(warehouse, [tmp_path / f"{name}{ending}"], NIGHT, KINDS).changed == 3
    found = rows(warehouse, "select item_id, text, output from histories order by all")
    assert found == [(row["item_id"], row["text"], row["output"]) for row in ROWS]


def test_broken_rows_of_csv_are_refused_alone(warehouse: Warehouse, tmp_path: Path) -> None:
    header, *_ = as_csv(",").splitlines(keepends=True)
    good = b'u,%d,LaMP_4,2026-11-20,"two\nlines",o\n'
    bad = b"u,2,LaMP_4\n" + "u,3,LaMP_4,2026-11-20,é,o\n".encode("latin1") + b"u,4,LaMP_4,2026-11-20,,o\n\n"
    (tmp_path / "h.csv").write_bytes(header + good % 1 + bad + good % 5)
    assert ingest_histories(warehouse, [tmp_path / "h.csv"], NIGHT, KINDS) == IngestResult(5, 2, 3, changed=2)
    assert refused(warehouse) == [
        ("h.csv:4", "wrong_field_count"),
        ("h.csv:5", "not_utf8"),
        ("h.csv:6", "missing_text"),
    ]


def test_folders_globs_and_hive_partitions_are_read(warehouse: Warehouse, tmp_path: Path) -> None:
    bare = {name: value for name, value in HISTORY.items() if name not in ("kind", "user_id")}
    root = tmp_path / "user_id=zzz" / "in"
    for number, user in enumerate(["u", "v%20w"]):
        folder = root / "kind=LaMP_4" / f"user_id={user}"
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([bare | {"item_id": f"{number}"}]), folder / "part-0.parquet")
    (root / "_SUCCESS").touch()
    (root / "_delta_log").mkdir()
    (root / "_delta_log" / "0.json").write_text("{}")
    for given in (root, root / "kind=*" / "*" / "*.parquet"):
        assert ingest_histories(warehouse, [given], NIGHT, KINDS).rows_rejected == 0
    assert rows(warehouse, "select user_id, item_id from histories order by all") == [("u", "0"), ("v w", "1")]


def test_columns_of_other_names_and_the_rows_of_a_query(warehouse: Warehouse, tmp_path: Path) -> None:
    names = {"user_id": "author", "text": "body", "posted_at": "published"}
    file = jsonl(tmp_path / "h.jsonl", {"author": 7, "body": "t", "published": "2026-11-20", "text": "not this"})
    assert ingest_histories(warehouse, [file], NIGHT, KINDS, IngestConfig(names, "LaMP_4")).changed == 1
    config = IngestConfig(names, "LaMP_4", sql=f"select author, body, published from read_json('{file}')")
    assert ingest_histories(warehouse, [], NIGHT, KINDS, config) == IngestResult(1, 1, 0, unchanged=1)
    for wrong in ("select", "create table x (y int)", "select 1 / 0 as author from no_such_table"):
        with pytest.raises(UsageError, match="--sql"):
            ingest_histories(warehouse, [], NIGHT, KINDS, IngestConfig(sql=wrong))
    with pytest.raises(UsageError, match="no column 'author' to map"):
        ingest_histories(warehouse, [file], NIGHT, KINDS, IngestConfig({"author": "user_id"}))


def test_a_file_refused_for_one_reason_is_told_once_with_the_map_that_fits(
    warehouse: Warehouse, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "h.csv").write_text("author,body,headline,published,a secret!\n" + "a,b,c,2026-11-20,x\n" * 9)
    ingest_histories(warehouse, [tmp_path / "h.csv"], NIGHT, KINDS)
    (line,) = caplog.messages
    assert "all 9 rows were refused: missing_user_id" in line
    assert "--map user_id=author,posted_at=published,text=body,output=headline" in line
    assert "secret" not in line


def test_a_folder_without_data_is_missing(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="no file in"):
        ingest_histories(warehouse, [tmp_path], NIGHT, KINDS)
