"""Whole nights or none, one winner among writers, and what is written is what is read."""

import tempfile
import threading
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from one_night import live_paths

from embedder.errors import PplugError, UsageError
from pipelines.tables.commits import CommitConflict
from pipelines.tables.parquet import write_shard
from pipelines.tables.schema import TABLES, file_schema
from pipelines.tables.views import connect
from pipelines.tables.warehouse import VERSION_KEY, Staged, Warehouse

NIGHT, NEXT = date(2026, 11, 20), date(2026, 11, 21)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def vectors(*users: str, vector: tuple[int, ...] = (95, 127)) -> pa.Table:
    rows = [
        {
            "user_id": user,
            "kind": "LaMP_4",
            "item_id": "i",
            "posted_at": NOON,
            "vector": list(vector),
            "vector_scale": 0.0063,
            "encoder_sha256": "e",
            "item_sha256": "s",
            "is_deleted": False,
        }
        for user in users
    ]
    return pa.Table.from_pylist(rows, schema=file_schema("history_vectors"))


def shard(warehouse: Warehouse, name: str, table: pa.Table) -> Path:
    path = warehouse.root / "_shards" / f"{name}.parquet"
    write_shard(path, table)
    return path


def refused(*reasons: str, job: str = "encode", source: str = "it's é") -> pa.Table:
    rows = [
        {"job": job, "row_id": "r", "user_id": None, "reason": reason, "detail": "", "run_id": "r", "source": source}
        for reason in reasons
    ]
    return pa.Table.from_pylist(rows, schema=file_schema("rejects"))


def rows(warehouse: Warehouse, sql: str) -> list[tuple[Any, ...]]:
    with connect(warehouse) as db:
        return db.execute(sql).fetchall()


def users(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return rows(warehouse, "select ds, user_id from history_vectors order by all")


def test_publishing_replaces_exactly_one_night(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    first = warehouse.publish("history_vectors", NIGHT, "r1", [shard(warehouse, "a", vectors("a", "b"))])
    warehouse.publish("history_vectors", NEXT, "r2", [shard(warehouse, "b", vectors("c"))])
    last = warehouse.publish(
        "history_vectors", NIGHT, "r3", [shard(warehouse, n, t) for n, t in [("c", vectors("d")), ("d", vectors("e"))]]
    )
    assert users(warehouse) == [(NIGHT, "d"), (NIGHT, "e"), (NEXT, "c")]
    assert last == warehouse.version("history_vectors")
    with connect(warehouse, {"history_vectors": warehouse.live("history_vectors", first)}) as db:
        assert db.sql("select user_id from history_vectors order by all").fetchall() == [("a",), ("b",)]


def test_a_night_without_rows_can_be_published(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.publish("history_vectors", NIGHT, "r1", [shard(warehouse, "a", vectors("a"))])
    warehouse.publish("history_vectors", NIGHT, "r2", [])
    warehouse.publish("history_vectors", NEXT, "r2", [shard(warehouse, "b", vectors())])
    assert users(warehouse) == []
    assert live_paths(warehouse, "history_vectors") == []


def test_a_run_that_died_between_two_tables_can_publish_the_same_shards_again(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    path = shard(warehouse, "a", vectors("a"))
    warehouse.publish("history_vectors", NIGHT, "r1", [path])
    warehouse.publish("history_vectors", NIGHT, "r1", [path])
    assert users(warehouse) == [(NIGHT, "a")]


def test_a_commit_carries_run_and_row_count_and_no_user(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.publish("history_vectors", NIGHT, "run-7", [shard(warehouse, "a", vectors("b", "a"))])
    table = warehouse.create("history_vectors")
    assert table.history(1)[0]["run_id"] == "run-7"
    assert table.history(1)[0]["row_count"] == "2"
    action = pa.table(table.get_add_actions(flatten=True)).to_pylist()[0]
    assert action["num_records"] == 2
    assert not {name for name in action if name.endswith(".user_id") and action[name] is not None}


def test_of_two_writers_of_a_night_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.create("history_vectors")
    shards = [shard(warehouse, f"w{writer}", vectors(f"w{writer}")) for writer in range(6)]
    barrier = threading.Barrier(6)
    losses: list[BaseException] = []

    def write(writer: int) -> None:
        barrier.wait()
        try:
            warehouse.publish("history_vectors", NIGHT, f"w{writer}", [shards[writer]])
        except PplugError as error:
            losses.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(users(warehouse)) == 1
    assert all(isinstance(loss, CommitConflict) for loss in losses)
    assert all(isinstance(loss.__cause__, CommitFailedError) for loss in losses)
    folder = warehouse.folder("history_vectors") / f"ds={NIGHT}"
    assert len(list(folder.iterdir())) == 6 - len(losses), "files of a lost commit are removed"


class Stale(Warehouse):
    """A warehouse of a run that opened its tables before another run committed."""

    def create(self, name: str) -> DeltaTable:
        table = super().table(name, 0)
        assert table is not None
        return table


@pytest.mark.parametrize("late", [NIGHT, NEXT])
def test_only_writers_of_the_same_night_are_in_each_others_way(late: date, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.create("history_vectors")
    warehouse.publish("history_vectors", NIGHT, "r1", [shard(warehouse, "a", vectors("a"))])
    path = shard(warehouse, "b", vectors("b"))
    if late == NIGHT:
        with pytest.raises(CommitConflict, match=r"ds=2026-11-20 .*run the command again"):
            Stale(tmp_path).publish("history_vectors", late, "r2", [path])
        assert users(warehouse) == [(NIGHT, "a")]
    else:
        Stale(tmp_path).publish("history_vectors", late, "r2", [path])
        assert users(warehouse) == [(NIGHT, "a"), (NEXT, "b")]


def test_what_was_made_before_the_night_was_written_again_or_files_taken_out_is_not_published(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.publish("history_vectors", NIGHT, "r1", [shard(warehouse, "a", vectors("a"))])
    since = warehouse.counts("history_vectors", NIGHT)
    warehouse.publish("history_vectors", NEXT, "r2", [shard(warehouse, "b", vectors("b"))])
    warehouse.publish("history_vectors", NIGHT, "r3", [shard(warehouse, "c", vectors("c"))], since)
    with pytest.raises(CommitConflict, match="written by another run meanwhile"):
        warehouse.publish("history_vectors", NIGHT, "r4", [shard(warehouse, "d", vectors("d"))], since)
    since, version = warehouse.counts("history_vectors", NIGHT), warehouse.version("history_vectors")
    assert version is not None
    old = [file for file in warehouse.live("history_vectors") if file.ds == NIGHT]
    warehouse.swap("history_vectors", "forget", old, [], version)
    with pytest.raises(CommitConflict):
        warehouse.publish("history_vectors", NIGHT, "r5", [shard(warehouse, "e", vectors("c"))], since)
    assert users(warehouse) == [(NEXT, "b")]


def test_many_runs_can_append_and_refuse_at_once(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    paths = [shard(warehouse, f"x{job}", refused("x", job=f"job{job}")) for job in range(4)]
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def work(job: int) -> None:
        barrier.wait()
        try:
            warehouse.replace_rejects(f"job{job}", NIGHT, "r", [paths[job]])
            warehouse.append("history_vectors", NIGHT, "r", vectors(f"u{job}"))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(job,)) for job in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert rows(warehouse, "select job from rejects order by 1") == [(f"job{job}",) for job in range(4)]
    assert len(users(warehouse)) == 4


def test_rejects_are_replaced_per_job_night_and_source(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for job, source, night in [("encode", "a", NIGHT), ("encode", "b", NIGHT), ("generate", "a", NIGHT)]:
        path = shard(warehouse, f"{job}{source}", refused("old", job=job, source=source))
        warehouse.replace_rejects(job, night, "r1", [path], source)
    warehouse.replace_rejects("encode", NIGHT, "r2", [shard(warehouse, "n", refused("new", source="a"))], "a")
    found = "select job, source, reason from rejects order by all"
    assert rows(warehouse, found) == [("encode", "a", "new"), ("encode", "b", "old"), ("generate", "a", "old")]
    warehouse.replace_rejects("encode", NEXT, "r3", [], None)
    assert len(rows(warehouse, found)) == 3
    warehouse.replace_rejects("encode", NIGHT, "r3", [])
    assert rows(warehouse, found) == [("generate", "a", "old")]


def test_nothing_refused_and_nothing_to_replace_is_no_commit(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.replace_rejects("encode", NIGHT, "r", [])
    assert warehouse.version("rejects") == 0, "the table is there, empty"


def test_files_are_swapped_in_one_commit_of_the_version_they_were_computed_from(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.create("history_vectors")
    warehouse.swap("history_vectors", "r1", [], [Staged(NIGHT, shard(warehouse, "a", vectors("a")))], 0)
    old = warehouse.live("history_vectors")
    new = [
        Staged(NIGHT, shard(warehouse, "b", vectors("b")), born=1),
        Staged(NEXT, shard(warehouse, "c", vectors("c"))),
    ]
    with pytest.raises(CommitConflict, match="written by another run"):
        warehouse.swap("history_vectors", "r2", old, new, 0)
    assert users(warehouse) == [(NIGHT, "a")]
    warehouse.swap("history_vectors", "r2", old, new, 1)
    assert users(warehouse) == [(NIGHT, "b"), (NEXT, "c")]
    assert [file.born for file in warehouse.live("history_vectors")] == [1, 2], (
        "rows that are kept stay as old as they were"
    )


def test_a_table_of_a_newer_pplug_is_refused_in_one_line(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.create("runs").alter.set_table_properties({VERSION_KEY: "99"}, raise_if_not_exists=False)
    with pytest.raises(
        PplugError,
        match=r"^.*runs has schema version 99, this pplug reads \d+: run `pplug ingest .* with a new --warehouse$",
    ):
        warehouse.versions()


def test_a_table_that_pplug_did_not_make_is_refused(tmp_path: Path) -> None:
    DeltaTable.create(tmp_path / "runs", TABLES["runs"], partition_by=["ds"])
    with pytest.raises(PplugError, match="was not made by pplug"):
        Warehouse(tmp_path).version("runs")


@pytest.mark.parametrize("letter", ["%", "?", "#"])
def test_a_path_that_delta_lake_would_misread_is_refused(letter: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose another --warehouse"):
        Warehouse(tmp_path / f"a{letter}41")


@pytest.mark.parametrize("folder", ["with space", "é", "a[b]*", "a'b", "ds"])
def test_other_paths_work(folder: str, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / folder)
    warehouse.append("history_vectors", NIGHT, "r", vectors("a"))
    warehouse.publish("history_vectors", NEXT, "r", [shard(warehouse, "s", vectors("b"))])
    assert users(warehouse) == [(NIGHT, "a"), (NEXT, "b")]


def test_a_shard_that_vanished_is_named(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    with pytest.raises(PplugError, match=r"gone\.parquet vanished .*: run the command again"):
        warehouse.publish("history_vectors", NIGHT, "r", [tmp_path / "gone.parquet"])


def test_a_warehouse_that_is_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PplugError, match="choose another --warehouse"):
        Warehouse(tmp_path / "file").create("runs")


def test_staged_files_are_gone_after_an_error(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)

    def fail() -> None:
        with warehouse.staging("run") as folder:
            (folder / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_polars_and_a_bare_parquet_reader_see_the_same_rows(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.publish("history_vectors", NIGHT, "r", [shard(warehouse, "a", vectors("a"))])
    warehouse.publish("history_vectors", NIGHT, "r", [shard(warehouse, "b", vectors("b"))])
    files = live_paths(warehouse, "history_vectors")
    assert polars.read_parquet(files)["user_id"].to_list() == ["b"]
    assert pq.read_schema(files[0]).names == file_schema("history_vectors").names


floats = st.floats(width=32, allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
counted_labels = st.fixed_dictionaries({"label": texts, "count": st.integers(1, 2**31 - 1)})
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda moment: moment.replace(tzinfo=UTC, fold=0))


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "user_id": texts,
                "persona": st.lists(floats),
                "vectors": st.lists(st.lists(st.integers(-127, 127)), max_size=3),
                "vector_scales": st.lists(floats, max_size=3),
                "counts": st.lists(st.integers(0, 2**31 - 1), max_size=3),
                "items": st.lists(st.fixed_dictionaries({"kind": texts, "item_id": texts}), max_size=2),
                "item_count": st.integers(0, 2**31 - 1),
                "first_posted_at": times,
                "last_posted_at": times,
                "items_sha256": texts,
                "encoder_sha256": texts,
                "run_id": texts,
                "label_counts": st.lists(st.lists(counted_labels, max_size=2), max_size=3),
                "newest_labels": st.lists(texts, max_size=3),
                "last_item": st.none() | st.fixed_dictionaries({"kind": texts, "item_id": texts}),
            }
        ),
        max_size=5,
    ),
    st.dates(date(1900, 1, 1), date(2999, 1, 1)),
)
def test_what_is_written_is_what_is_read(written: list[dict[str, Any]], night: date) -> None:
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(Path(folder))
        table = pa.Table.from_pylist(written, schema=file_schema("persona_vectors"))
        warehouse.publish("persona_vectors", night, "r", [shard(warehouse, "a", table)])
        with connect(warehouse) as db:
            found = db.sql("select * from persona_vectors").to_arrow_table().to_pylist()
    expected = table.append_column("ds", pa.array([night] * len(written), pa.date32())).to_pylist()
    for row in expected:
        row["first_posted_at"] = row["first_posted_at"].replace(tzinfo=None)
        row["last_posted_at"] = row["last_posted_at"].replace(tzinfo=None)
    assert sorted(map(repr, found)) == sorted(map(repr, expected))
