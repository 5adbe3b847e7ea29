"""What is read is taken or refused, once each, and a second time changes nothing."""

import json
import os
import tempfile
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from ingesting import HISTORY, KINDS, NEXT, NIGHT, TASK, item, items, jsonl, refused, rows
from malformed_rows import MALFORMED_HISTORIES, MALFORMED_TASKS
from one_night import live_paths

from embedder.errors import InputMissing
from pipelines.ingest import IngestResult, ingest_histories, ingest_tasks
from pipelines.tables.warehouse import Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


def test_a_row_arrives_as_it_was_sent(warehouse: Warehouse, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "h.jsonl", HISTORY)
    assert ingest_histories(warehouse, [file], NIGHT, KINDS) == IngestResult(1, 1, 0, changed=1)
    moment = datetime(2026, 11, 20)
    assert rows(warehouse, "select * from histories") == [("u", "i", "LaMP_4", moment, "t", "o", False, NIGHT)]


def test_a_task_arrives_as_it_was_sent(warehouse: Warehouse, tmp_path: Path) -> None:
    tasks = [
        {**TASK, "choices": ["a", "b"], "reference": "a"},
        {**TASK, "task_id": "t2", "queued_at": 1_763_596_800_000},
    ]
    assert ingest_tasks(warehouse, [jsonl(tmp_path / "t.jsonl", *tasks)], NIGHT, KINDS).rows_out == 2
    found = rows(warehouse, "select * from tasks order by task_id")
    assert found == [
        ("t", "u", "LaMP_4", datetime(2026, 11, 20), "x", ["a", "b"], "a", NIGHT),
        ("t2", "u", "LaMP_4", datetime(2025, 11, 20), "x", None, None, NIGHT),
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
    ingest_histories(warehouse, [file], NIGHT, KINDS)
    ((run_id, *counts),) = rows(warehouse, "select run_id, job, status, rows_in, rows_out, rows_rejected from runs")
    assert counts == ["ingest_histories", "done", 1, 0, 1]
    found = rows(warehouse, "select * from rejects")
    assert found == [
        ("ingest_histories", "h.jsonl:1", "u", "bad_time", "a text of 4 characters", run_id, str(file), NIGHT)
    ]


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
    assert live_paths(warehouse, "histories") == []


def test_a_deleted_task_leaves_other_nights_alone(warehouse: Warehouse, tmp_path: Path) -> None:
    for night in (NIGHT, NEXT):
        ingest_tasks(warehouse, [jsonl(tmp_path / "t.jsonl", TASK, {**TASK, "task_id": "t2"})], night, KINDS)
    result = ingest_tasks(warehouse, [jsonl(tmp_path / "t.jsonl", {"task_id": "t", "deleted": True})], NEXT, KINDS)
    assert result.deleted == 1
    assert rows(warehouse, "select task_id, ds from tasks order by all") == [("t", NIGHT), ("t2", NIGHT), ("t2", NEXT)]


def test_the_same_row_twice_counts_twice_and_is_there_once(warehouse: Warehouse, tmp_path: Path) -> None:
    spelled = item(posted_at="2026-11-20T01:00:00+01:00", output="o")
    result = ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item(), spelled)], NIGHT, KINDS)
    assert result == IngestResult(2, 2, 0, changed=1, superseded=1)
    assert len(items(warehouse)) == 1


def test_a_key_in_two_files_is_taken_from_the_later_one(warehouse: Warehouse, tmp_path: Path) -> None:
    files = [jsonl(tmp_path / f"{text}.jsonl", item("a", text=text)) for text in ("first", "second")]
    assert ingest_histories(warehouse, files, NIGHT, KINDS) == IngestResult(2, 2, 0, changed=1, superseded=1)
    assert items(warehouse) == [("a", "second", NIGHT)]


def test_rejects_are_replaced_per_file(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = [jsonl(tmp_path / "h.jsonl", b"broken"), jsonl(tmp_path / "other" / "h.jsonl", b"[]", b"7")]
    assert ingest_histories(warehouse, files, NIGHT, KINDS) == IngestResult(3, 0, 3)
    assert len(refused(warehouse)) == 3
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item())], NIGHT, KINDS)
    assert refused(warehouse) == [("h.jsonl:1", "not_an_object"), ("h.jsonl:2", "not_an_object")]


def test_a_missing_file_is_told_before_anything_is_written(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"none\.jsonl"):
        ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item()), tmp_path / "none.jsonl"], NIGHT, KINDS)
    assert not warehouse.root.exists()


def test_a_dry_run_counts_and_writes_nothing(warehouse: Warehouse, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "h.jsonl", item("a"), b"broken")
    expected = IngestResult(2, 1, 1, changed=1)
    assert ingest_histories(warehouse, [file], NIGHT, KINDS, dry_run=True) == expected
    assert not warehouse.root.exists()
    assert ingest_histories(warehouse, [file], NIGHT, KINDS) == expected
    before = warehouse.versions()
    result = ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item("a", text="n"))], NEXT, KINDS, dry_run=True)
    assert result == IngestResult(1, 1, 0, changed=1)
    assert warehouse.versions() | {"runs": 0} == before | {"runs": 0}


def test_nothing_staged_is_left(warehouse: Warehouse, tmp_path: Path) -> None:
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", item(), b"broken")], NIGHT, KINDS)
    assert sorted(path.name for path in warehouse.root.iterdir()) == [
        "_staging",
        "deletions",
        "histories",
        "rejects",
        "runs",
    ]


def test_nothing_staged_is_left_when_a_file_vanishes_while_it_is_read(warehouse: Warehouse, tmp_path: Path) -> None:
    class Vanishing:
        """Kinds that take the second file away when the first is read."""

        def __contains__(self, kind: object) -> bool:
            (tmp_path / "two.jsonl").unlink(missing_ok=True)
            return True

    files = [jsonl(tmp_path / "one.jsonl", item("a")), jsonl(tmp_path / "two.jsonl", item("b"))]
    with pytest.raises(FileNotFoundError):
        ingest_histories(warehouse, files, NIGHT, Vanishing())
    assert sorted(path.name for path in warehouse.root.iterdir()) == ["_staging", "runs"]
    assert items(warehouse) == [], "all files or none"


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
        "posted_at": st.integers(631_152_000, 1_800_000_000),
        "text": texts,
    },
    optional={"output": st.none() | texts, "deleted": st.booleans()},
)
lines = histories | st.sampled_from([line for line, _ in MALFORMED_HISTORIES])


def slowly_ingested(given_lines: list[dict[str, Any] | bytes]) -> tuple[dict[tuple[str, ...], tuple[Any, ...]], int]:
    """The oracle: what one file should leave in an empty warehouse, and how many rows it should have refused."""
    taken: dict[tuple[str, ...], tuple[Any, ...]] = {}
    deleted: set[tuple[str, ...]] = set()
    refusals = 0
    for line in given_lines:
        if isinstance(line, bytes):
            refusals += 1
            continue
        key = (line["user_id"], line["kind"], line["item_id"])
        output = line.get("output")
        taken[key] = (line["posted_at"], line["text"], output if output and output.strip() else None)
        if line.get("deleted"):
            deleted.add(key)
    return {key: content for key, content in taken.items() if key not in deleted}, refusals


def test_what_stands_behind_a_list_is_told(warehouse: Warehouse, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "h.json", json.dumps([item("in the list")]).encode(), item("behind it"))
    found = ingest_histories(warehouse, [file], NIGHT, KINDS)
    assert (found.rows_in, found.rows_rejected) == (2, 1)
    assert rows(warehouse, "select item_id from histories") == [("in the list",)]
    assert rows(warehouse, "select detail from rejects") == [("more after the end of the list",)]


def is_list(order: list[dict[str, Any] | bytes]) -> bool:
    """A file that begins with a bracket is one list, and what stands behind it is refused as one row."""
    return bool(order) and isinstance(order[0], bytes) and order[0].startswith(b"[")


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])  # of 1 CPU second each
@given(st.lists(lines, max_size=12) | st.lists(lines, min_size=8, max_size=24), st.randoms(use_true_random=False))
def test_any_file_leaves_what_plain_python_says(given_lines: list[dict[str, Any] | bytes], random: Any) -> None:
    shuffled = random.sample(given_lines, len(given_lines))
    assume(not is_list(given_lines) and not is_list(shuffled))
    with tempfile.TemporaryDirectory() as folder:
        for place, order in (("one", given_lines), ("two", shuffled)):
            expected, refusals = slowly_ingested(order)
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


@pytest.mark.skipif("REAL_DATA" not in os.environ, reason="set REAL_DATA to a folder of LaMP files")
def test_real_files_arrive_whole(warehouse: Warehouse) -> None:
    folder = Path(os.environ["REAL_DATA"]) / "nightly" / "news"
    result = ingest_histories(warehouse, [folder / "histories.jsonl"], NIGHT, {"LaMP_2N"})
    assert result == IngestResult(5_000, 5_000, 0, changed=5_000)
    assert ingest_tasks(warehouse, [folder / "tasks.jsonl"], NIGHT, {"LaMP_2N"}).rows_out == 430
    assert rows(warehouse, "select count(distinct user_id) from histories") == [(82,)]
