"""What is read is taken or refused, once each, and a second time changes nothing."""

import json
import os
import tempfile
import threading
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_rows import HISTORY, MALFORMED_HISTORIES, MALFORMED_TASKS, TASK

from embedder.errors import InputMissing, PplugError
from pipelines import records
from pipelines.ingest import IngestResult, ingest_histories, ingest_tasks
from pipelines.views import connect
from pipelines.warehouse import Warehouse

NIGHT, NEXT = date(2026, 11, 20), date(2026, 11, 21)
KINDS = {"LaMP_4"}


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


def jsonl(path: Path, *lines: dict[str, Any] | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def item(item_id: str = "i", **changes: object) -> dict[str, Any]:
    return {**HISTORY, "item_id": item_id, **changes}


def rows(warehouse: Warehouse, sql: str) -> list[tuple[Any, ...]]:
    with connect(warehouse) as db:
        return db.execute(sql).fetchall()


def items(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return rows(warehouse, "select item_id, text, ds from histories order by all")


def refused(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return rows(warehouse, "select row_id, reason from rejects order by all")


def test_a_row_arrives_as_it_was_sent(warehouse: Warehouse, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "h.jsonl", HISTORY)
    assert ingest_histories(warehouse, [file], NIGHT, KINDS) == IngestResult(1, 1, 0, changed=1)
    moment = datetime(2026, 11, 20)
    assert rows(warehouse, "select * from histories") == [("u", "i", "LaMP_4", moment, "t", "o", NIGHT)]


def test_a_task_arrives_as_it_was_sent(warehouse: Warehouse, tmp_path: Path) -> None:
    tasks = [{**TASK, "choices": ["a", "b"], "reference": "a"}, {**TASK, "task_id": "t2", "queued_at": 0}]
    assert ingest_tasks(warehouse, [jsonl(tmp_path / "t.jsonl", *tasks)], NIGHT, KINDS).rows_out == 2
    found = rows(warehouse, "select * from tasks order by task_id")
    assert found == [
        ("t", "u", "LaMP_4", datetime(2026, 11, 20), "x", ["a", "b"], "a", NIGHT),
        ("t2", "u", "LaMP_4", datetime(1970, 1, 1), "x", None, None, NIGHT),
    ]


@pytest.mark.parametrize(
    ("ingest", "cases"), [(ingest_histories, MALFORMED_HISTORIES), (ingest_tasks, MALFORMED_TASKS)]
)
def test_every_malformed_line_is_refused_and_its_neighbours_are_kept(
    ingest: Any, cases: list[tuple[bytes, str]], warehouse: Warehouse, tmp_path: Path
) -> None:
    like = HISTORY if ingest is ingest_histories else TASK
    key = "item_id" if ingest is ingest_histories else "task_id"
    lines = [line for number, (bad, _) in enumerate(cases) for line in ({**like, key: str(number)}, bad)]
    result = ingest(warehouse, [jsonl(tmp_path / "bad.jsonl", *lines)], NIGHT, KINDS)
    expected = [(f"bad.jsonl:{2 * number}", reason) for number, (_, reason) in enumerate(cases, 1)]
    assert result == IngestResult(2 * len(cases), len(cases), len(cases), changed=len(cases))
    assert refused(warehouse) == sorted(expected)


def test_a_reject_says_which_job_refused_which_value_of_whom(warehouse: Warehouse, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "h.jsonl", item(posted_at="soon"))
    ingest_histories(warehouse, [file], NIGHT, KINDS, run_id="run-7")
    found = rows(warehouse, "select * from rejects")
    assert found == [("ingest_histories", "h.jsonl:1", "u", "bad_time", "soon", "run-7", str(file), NIGHT)]


def test_the_same_file_twice_makes_no_new_version(warehouse: Warehouse, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "h.jsonl", item("a"), item("b"), b"broken")
    ingest_histories(warehouse, [file], NIGHT, KINDS)
    version, before = warehouse.version("histories"), (items(warehouse), refused(warehouse))
    for night in (NIGHT, NEXT):
        result = ingest_histories(warehouse, [file], night, KINDS)
        assert result == IngestResult(3, 2, 1, unchanged=2)
    assert warehouse.version("histories") == version
    assert items(warehouse) == before[0]


def test_a_changed_row_moves_to_the_new_night_and_the_others_stay(warehouse: Warehouse, tmp_path: Path) -> None:
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", *map(item, "abcd"))], NIGHT, KINDS)
    changed = [
        item("a"),
        item("b", text="new"),
        item("c", output=None),
        item("d", posted_at="2026-11-19"),
        item("e"),
    ]
    result = ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", *changed)], NEXT, KINDS)
    assert result == IngestResult(5, 5, 0, unchanged=1, changed=4)
    assert items(warehouse) == [
        ("a", "t", NIGHT),
        ("b", "new", NEXT),
        ("c", "t", NEXT),
        ("d", "t", NEXT),
        ("e", "t", NEXT),
    ]


def test_deleted_removes_and_a_deletion_of_nothing_is_no_commit(warehouse: Warehouse, tmp_path: Path) -> None:
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", *map(item, "ab"))], NIGHT, KINDS)
    gone = jsonl(tmp_path / "gone.jsonl", {"user_id": "u", "item_id": "a", "kind": "LaMP_4", "deleted": True})
    assert ingest_histories(warehouse, [gone], NEXT, KINDS) == IngestResult(1, 1, 0, deleted=1)
    assert items(warehouse) == [("b", "t", NIGHT)]
    version = warehouse.version("histories")
    assert ingest_histories(warehouse, [gone], NEXT, KINDS) == IngestResult(1, 1, 0, unchanged=1)
    assert warehouse.version("histories") == version


def test_the_last_row_of_a_table_can_be_deleted(warehouse: Warehouse, tmp_path: Path) -> None:
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item())], NIGHT, KINDS)
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item(deleted=True))], NIGHT, KINDS)
    assert items(warehouse) == []
    assert warehouse.files("histories") == []


def test_a_deleted_task_leaves_other_nights_alone(warehouse: Warehouse, tmp_path: Path) -> None:
    for night in (NIGHT, NEXT):
        ingest_tasks(warehouse, [jsonl(tmp_path / "t.jsonl", TASK, {**TASK, "task_id": "t2"})], night, KINDS)
    result = ingest_tasks(warehouse, [jsonl(tmp_path / "t.jsonl", {"task_id": "t", "deleted": True})], NEXT, KINDS)
    assert result.deleted == 1
    assert rows(warehouse, "select task_id, ds from tasks order by all") == [("t", NIGHT), ("t2", NIGHT), ("t2", NEXT)]


def test_the_same_row_twice_counts_twice_and_is_there_once(warehouse: Warehouse, tmp_path: Path) -> None:
    spelled = item(posted_at="2026-11-20T01:00:00+01:00", output="o")
    result = ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item(), spelled)], NIGHT, KINDS)
    assert result == IngestResult(2, 2, 0, changed=1)
    assert len(items(warehouse)) == 1


@pytest.mark.parametrize(
    "other",
    [{"text": "x"}, {"output": None}, {"posted_at": 0}, {"deleted": True}],
    ids=["text", "output", "time", "deleted"],
)
def test_one_key_with_two_rows_in_a_file_is_refused_with_both(
    other: dict[str, Any], warehouse: Warehouse, tmp_path: Path
) -> None:
    file = jsonl(tmp_path / "h.jsonl", item("a"), item("b"), item("a", **other), item("a"))
    assert ingest_histories(warehouse, [file], NIGHT, KINDS) == IngestResult(4, 1, 3, changed=1)
    assert refused(warehouse) == [(f"h.jsonl:{line}", "conflicting_key") for line in (1, 3, 4)]
    assert items(warehouse) == [("b", "t", NIGHT)]


def test_conflicting_tasks_are_refused_and_what_was_there_stays(warehouse: Warehouse, tmp_path: Path) -> None:
    ingest_tasks(warehouse, [jsonl(tmp_path / "t.jsonl", TASK)], NIGHT, KINDS)
    file = jsonl(tmp_path / "t.jsonl", {**TASK, "choices": ["a", "b"]}, {**TASK, "choices": ["b", "a"]})
    assert ingest_tasks(warehouse, [file], NIGHT, KINDS).rows_rejected == 2
    assert rows(warehouse, "select task_id, choices from tasks") == [("t", None)]


def test_a_key_in_two_files_is_taken_from_the_later_one(warehouse: Warehouse, tmp_path: Path) -> None:
    files = [jsonl(tmp_path / f"{text}.jsonl", item("a", text=text)) for text in ("first", "second")]
    assert ingest_histories(warehouse, files, NIGHT, KINDS) == IngestResult(2, 2, 0, changed=2)
    assert items(warehouse) == [("a", "second", NIGHT)]


def test_rejects_are_replaced_per_file(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = [jsonl(tmp_path / "h.jsonl", b"broken"), jsonl(tmp_path / "other" / "h.jsonl", b"[]", b"7")]
    assert ingest_histories(warehouse, files, NIGHT, KINDS) == IngestResult(3, 0, 3)
    assert len(refused(warehouse)) == 3
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item())], NIGHT, KINDS)
    assert refused(warehouse) == [("h.jsonl:1", "not_an_object"), ("h.jsonl:2", "not_an_object")]


def test_blank_lines_line_ends_and_byte_order_marks_are_no_rows(warehouse: Warehouse, tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    line = json.dumps(item("a")).encode()
    file.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n   \n" + line.replace(b'"a"', b'"b"') + b"\nx\n\n")
    assert ingest_histories(warehouse, [file], NIGHT, KINDS) == IngestResult(3, 2, 1, changed=2)
    assert refused(warehouse) == [("h.jsonl:5", "broken_json")]


def test_a_line_without_end_is_refused_without_being_kept_in_memory(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LINE_BYTES", 300)
    file = jsonl(tmp_path / "h.jsonl", item("a"), b'{"user_id": "' + b"x" * 1_000 + b'"}', item("b"))
    assert ingest_histories(warehouse, [file], NIGHT, KINDS) == IngestResult(3, 2, 1, changed=2)
    assert refused(warehouse) == [("h.jsonl:2", "line_too_long")]


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


@pytest.mark.parametrize(
    ("posted_at", "reason"),
    [
        (pa.array([1_763_596_800]), None),
        (pa.array([date(2026, 11, 20)]), None),
        (pa.array([1_763_596_800_000_000_001], pa.timestamp("ns")), None),
        (pa.array(["2026-11-20"]), None),
        (pa.array([1.5]), "wrong_type_posted_at"),
        (pa.array([2**62], pa.timestamp("us")), "unreadable_value"),
        (pa.array([b"\xff"]).cast(pa.binary()).view(pa.string()), "not_utf8"),
    ],
)
def test_times_of_parquet_are_read_by_their_type(
    posted_at: pa.Array, reason: str | None, warehouse: Warehouse, tmp_path: Path
) -> None:
    texts = {name: pa.array([HISTORY[name]]) for name in ("user_id", "item_id", "kind", "text")}
    ingest_histories(warehouse, [parquet(tmp_path / "h.parquet", posted_at=posted_at, **texts)], NIGHT, KINDS)
    assert refused(warehouse) == ([] if reason is None else [("h.parquet:1", reason)])
    assert len(items(warehouse)) == (reason is None)


def test_numbers_as_user_ids_of_parquet_are_refused(warehouse: Warehouse, tmp_path: Path) -> None:
    texts = {name: pa.array([HISTORY[name]] * 2) for name in ("item_id", "kind", "posted_at", "text")}
    file = parquet(tmp_path / "h.parquet", user_id=pa.array([1, 2]), **texts)
    assert ingest_histories(warehouse, [file], NIGHT, KINDS).rows_rejected == 2
    assert {reason for _, reason in refused(warehouse)} == {"wrong_type_user_id"}


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
        ("h.jsonl", b"\x1f\x8b\x08\x00gzip", "not_jsonl_or_parquet"),
        ("h.jsonl", json.dumps(HISTORY).encode("utf-16"), "not_jsonl_or_parquet"),
        ("h.jsonl", b"\x7fELF\x00\x00", "not_jsonl_or_parquet"),
        ("h.csv", b"user_id", "broken_json"),
    ],
)
def test_a_file_that_is_neither_is_one_reject(
    name: str, content: bytes, reason: str, warehouse: Warehouse, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert ingest_histories(warehouse, [tmp_path / name], NIGHT, KINDS) == IngestResult(1, 0, 1)
    assert refused(warehouse) == [(f"{name}:{1 if name == 'h.csv' else 0}", reason)]


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
    assert warehouse.versions() == {"histories": 0, "rejects": 0}


def test_a_parquet_file_without_rows_or_columns_of_ours_is_no_error(warehouse: Warehouse, tmp_path: Path) -> None:
    file = parquet(tmp_path / "h.parquet", other=pa.array([1, 2]))
    assert ingest_histories(warehouse, [file], NIGHT, KINDS) == IngestResult(2, 0, 2)
    assert {reason for _, reason in refused(warehouse)} == {"missing_user_id"}


def test_a_missing_file_is_told_before_anything_is_written(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"none\.jsonl"):
        ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item()), tmp_path / "none.jsonl"], NIGHT, KINDS)
    assert not warehouse.root.exists()


def test_a_folder_is_no_file(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(PplugError, match="cannot be read"):
        ingest_histories(warehouse, [tmp_path], NIGHT, KINDS)


def test_a_dry_run_counts_and_writes_nothing(warehouse: Warehouse, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "h.jsonl", item("a"), b"broken")
    expected = IngestResult(2, 1, 1, changed=1)
    assert ingest_histories(warehouse, [file], NIGHT, KINDS, dry_run=True) == expected
    assert not warehouse.root.exists()
    assert ingest_histories(warehouse, [file], NIGHT, KINDS) == expected
    before = warehouse.versions()
    result = ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item("a", text="n"))], NEXT, KINDS, dry_run=True)
    assert result == IngestResult(1, 1, 0, changed=1)
    assert warehouse.versions() == before


def test_nothing_staged_is_left(warehouse: Warehouse, tmp_path: Path) -> None:
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item(), b"broken")], NIGHT, KINDS)
    assert sorted(path.name for path in warehouse.root.iterdir()) == ["histories", "rejects"]


def test_nothing_staged_is_left_when_a_file_vanishes_while_it_is_read(warehouse: Warehouse, tmp_path: Path) -> None:
    class Vanishing:
        """Kinds that take the second file away when the first is read."""

        def __contains__(self, kind: object) -> bool:
            (tmp_path / "two.jsonl").unlink(missing_ok=True)
            return True

    files = [jsonl(tmp_path / "one.jsonl", item("a")), jsonl(tmp_path / "two.jsonl", item("b"))]
    with pytest.raises(FileNotFoundError):
        ingest_histories(warehouse, files, NIGHT, Vanishing())
    assert sorted(path.name for path in warehouse.root.iterdir()) == ["histories", "rejects"]
    assert items(warehouse) == [("a", "t", NIGHT)], "each file is taken by itself"


def test_files_ingested_at_once_all_arrive(warehouse: Warehouse, tmp_path: Path) -> None:
    files = [jsonl(tmp_path / f"{n}.jsonl", item(f"own {n}"), item("shared"), b"broken") for n in range(4)]
    failures: list[BaseException] = []

    def work(file: Path) -> None:
        try:
            ingest_histories(warehouse, [file], NIGHT, KINDS)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(file,)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [row[0] for row in items(warehouse)] == [*(f"own {n}" for n in range(4)), "shared"]
    assert len(refused(warehouse)) == 4


def test_a_change_of_one_user_leaves_the_files_of_others_alone(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.parquet.FILE_ROWS", 10)
    monkeypatch.setattr("pipelines.upsert.ROW_GROUP_ROWS", 5)
    many = [item(f"{n}", user_id=f"{n:04d}") for n in range(5_000)]
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", *many)], NIGHT, KINDS)
    before = set(warehouse.files("histories"))
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", {**many[7], "text": "new"})], NEXT, KINDS)
    after = set(warehouse.files("histories"))
    assert (len(before) > 2, len(before - after), len(after - before)) == (True, 1, 2)
    assert len(items(warehouse)) == 5_000
    users = [pq.read_table(file, columns=["user_id"])["user_id"].to_pylist() for file in after]
    assert all(own == sorted(own) for own in users)


def test_a_warehouse_folder_with_wildcards_in_its_name_is_read_literally(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "a[b]*")
    for text in ("one", "two"):
        ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item(text=text))], NIGHT, KINDS)
    assert items(warehouse) == [("i", "two", NIGHT)]


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip())
histories = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["u", "v"]) | texts,
        "item_id": st.sampled_from(["a", "b", "c"]) | texts,
        "kind": st.just("LaMP_4"),
        "posted_at": st.integers(0, 2**32),
        "text": texts,
    },
    optional={"output": st.none() | texts, "deleted": st.booleans()},
)
lines = histories | st.sampled_from([line for line, _ in MALFORMED_HISTORIES])


def slowly_ingested(given_lines: list[dict[str, Any] | bytes]) -> tuple[dict[tuple[str, ...], tuple[Any, ...]], int]:
    """The oracle: what one file should leave in an empty warehouse, and how many rows it should have refused."""
    by_key: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    refusals = 0
    for line in given_lines:
        if isinstance(line, bytes):
            refusals += 1
            continue
        key = (line["user_id"], line["kind"], line["item_id"])
        output = line.get("output")
        content = (line["posted_at"], line["text"], output if output and output.strip() else None)
        by_key.setdefault(key, []).append(("deleted",) if line.get("deleted") else content)
    refusals += sum(len(contents) for contents in by_key.values() if len(set(contents)) > 1)
    taken = {key: contents[0] for key, contents in by_key.items() if len(set(contents)) == 1}
    return {key: content for key, content in taken.items() if content != ("deleted",)}, refusals


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.lists(lines, max_size=12), st.randoms(use_true_random=False))
def test_any_file_in_any_order_leaves_what_plain_python_says(
    given_lines: list[dict[str, Any] | bytes], random: Any
) -> None:
    expected, refusals = slowly_ingested(given_lines)
    shuffled = random.sample(given_lines, len(given_lines))
    with tempfile.TemporaryDirectory() as folder:
        for place, order in (("one", given_lines), ("two", shuffled)):
            warehouse = Warehouse(Path(folder) / place)
            file = jsonl(Path(folder) / "h.jsonl", *order)
            first, second = (ingest_histories(warehouse, [file], night, KINDS) for night in (NIGHT, NEXT))
            assert (first.rows_in, first.rows_rejected) == (len(order), refusals)
            assert first.rows_in == first.rows_out + first.rows_rejected
            assert (first.changed, second.changed, second.deleted) == (len(expected), 0, 0)
            found = rows(warehouse, "select user_id, kind, item_id, epoch(posted_at), text, output, ds from histories")
            assert {row[:3]: row[3:6] for row in found} == expected
            assert {row[6] for row in found} <= {NIGHT}
            assert warehouse.version("histories") == bool(expected)
            assert len(refused(warehouse)) == 2 * refusals, "once per night"


@pytest.mark.skipif("REAL_DATA" not in os.environ, reason="needs the folder that shared/data/prepare.py writes")
def test_real_files_arrive_whole(warehouse: Warehouse) -> None:
    folder = Path(os.environ["REAL_DATA"]) / "nightly" / "news"
    result = ingest_histories(warehouse, [folder / "histories.jsonl"], NIGHT, {"LaMP_2N"})
    assert result == IngestResult(5_000, 5_000, 0, changed=5_000)
    assert ingest_tasks(warehouse, [folder / "tasks.jsonl"], NIGHT, {"LaMP_2N"}).rows_out == 430
    assert rows(warehouse, "select count(distinct user_id) from histories") == [(82,)]
