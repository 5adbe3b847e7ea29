"""What becomes of several rows of one key, in one command and over the nights."""

import itertools
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingesting import KINDS, NEXT, NIGHT, TASK, item, items, jsonl, refused, rows

from pipelines.forget import forget_user
from pipelines.ingest import IngestConfig, ingest_histories, ingest_tasks
from pipelines.tables.warehouse import Warehouse

EDIT = item("a", text="an edit")
DELETION = {"user_id": "u", "item_id": "a", "kind": "LaMP_4", "deleted": True}


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


@pytest.mark.parametrize("order", list(itertools.permutations([EDIT, DELETION, item("b")])))
def test_a_deletion_wins_over_an_edit_in_the_same_file(
    order: tuple[dict[str, Any], ...], warehouse: Warehouse, tmp_path: Path
) -> None:
    ingest_histories(warehouse, [jsonl(tmp_path / "old.jsonl", item("a"))], NIGHT, KINDS)
    result = ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", *order)], NEXT, KINDS)
    assert (result.rows_out, result.rows_rejected, result.deleted, result.superseded) == (3, 0, 1, 1)
    assert items(warehouse) == [("b", "t", NEXT)]


def test_of_several_edits_the_last_line_wins(warehouse: Warehouse, tmp_path: Path) -> None:
    lines = [item("a", text=text) for text in ("one", "three", "two")]
    result = ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", *lines)], NIGHT, KINDS)
    assert (result.rows_out, result.changed, result.superseded) == (3, 1, 2)
    assert items(warehouse) == [("a", "two", NIGHT)]
    assert refused(warehouse) == []


def test_of_several_tasks_of_one_id_the_last_line_wins(warehouse: Warehouse, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", {**TASK, "choices": ["a", "b"]}, {**TASK, "choices": ["b", "a"]})
    assert ingest_tasks(warehouse, [file], NIGHT, KINDS).superseded == 1
    assert rows(warehouse, "select task_id, choices from tasks") == [("t", ["b", "a"])]


edits = st.sampled_from("ab").flatmap(
    lambda key: st.sampled_from([DELETION | {"item_id": key}, *(item(key, text=text) for text in ("x", "y", "z"))])
)


@settings(max_examples=10, deadline=None)
@given(st.lists(edits, min_size=1, max_size=6), st.integers(0, 6))
def test_files_in_one_command_are_as_good_as_one_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("w")
    one, two = Warehouse(folder / "one"), Warehouse(folder / "two")
    whole = jsonl(folder / "whole.jsonl", *lines)
    parts = [jsonl(folder / "1.jsonl", *lines[:cut]), jsonl(folder / "2.jsonl", *lines[cut:])]
    assert ingest_histories(one, [whole], NIGHT, KINDS) == ingest_histories(two, parts, NIGHT, KINDS)
    assert items(one) == items(two)


def test_a_file_of_an_earlier_night_never_replaces_a_later_nights_row(warehouse: Warehouse, tmp_path: Path) -> None:
    old = jsonl(tmp_path / "old.jsonl", item("a", text="old"), item("b", text="old"), item("c", text="old"))
    new = jsonl(tmp_path / "new.jsonl", item("a", text="new"))
    ingest_histories(warehouse, [old], NIGHT, KINDS)
    ingest_histories(warehouse, [new], NEXT, KINDS)
    again = ingest_histories(warehouse, [old], NIGHT, KINDS)
    assert (again.unchanged, again.changed, again.left_alone) == (2, 0, 1)
    assert items(warehouse) == [("a", "new", NEXT), ("b", "old", NIGHT), ("c", "old", NIGHT)]
    forced = ingest_histories(warehouse, [old], NIGHT, KINDS, IngestConfig(overwrite_newer=True))
    assert (forced.changed, forced.left_alone) == (1, 0)
    assert items(warehouse)[0] == ("a", "old", NIGHT)


def test_a_file_of_an_earlier_night_brings_back_nothing_that_was_deleted_later(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    old = jsonl(tmp_path / "old.jsonl", item("a"), item("b"))
    ingest_histories(warehouse, [old], NIGHT, KINDS)
    ingest_histories(warehouse, [jsonl(tmp_path / "gone.jsonl", DELETION)], NEXT, KINDS)
    assert ingest_histories(warehouse, [old], NIGHT, KINDS).left_alone == 1
    assert items(warehouse) == [("b", "t", NIGHT)]
    later = ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", EDIT)], date(2026, 11, 22), KINDS)
    assert later.changed == 1, "a later night may bring it back"
    assert ingest_histories(warehouse, [old], NIGHT, KINDS).left_alone == 1


def test_the_nights_may_arrive_in_any_order(tmp_path: Path) -> None:
    nights = {
        date(2026, 11, 20): [item("a"), item("b")],
        date(2026, 11, 21): [DELETION, item("b", text="later")],
        date(2026, 11, 22): [item("b", deleted=True), item("c")],
    }
    files = {ds: jsonl(tmp_path / f"{ds}.jsonl", *lines) for ds, lines in nights.items()}
    for number, order in enumerate(itertools.permutations(nights)):
        warehouse = Warehouse(tmp_path / f"w{number}")
        for ds in order:
            ingest_histories(warehouse, [files[ds]], ds, KINDS)
        assert items(warehouse) == [("c", "t", date(2026, 11, 22))]


def test_what_is_kept_of_deletions_goes_with_the_user(warehouse: Warehouse, tmp_path: Path) -> None:
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", DELETION, item("b", user_id="v"))], NIGHT, KINDS)
    assert rows(warehouse, "select user_id, item_id, ds from deletions") == [("u", "a", NIGHT)]
    forget_user(warehouse, "u", reader_seconds=0)
    assert rows(warehouse, "select * from deletions") == []
