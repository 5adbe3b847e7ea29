import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake.transaction import AddAction
from file_scan import Vector, leaves, telling_files
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from ingesting import jsonl, refused, rows
from one_night import encode_night, generate_night
from small_night import ITEMS, NIGHT, TASKS, task
from small_night import item as note_item

from embedder.errors import InputMissing, PplugError, UsageError
from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig
from pipelines.erasure.user_key import made_key, read_forgotten
from pipelines.forget import forget_user
from pipelines.ingest import ingest_histories, ingest_lamp, ingest_tasks
from pipelines.nights.runs import Excludes, recorded_run, utc_now
from pipelines.tables.parquet import write_shard
from pipelines.tables.queries import run_checks
from pipelines.tables.schema import TABLES, file_schema
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

Fill = Callable[..., Warehouse]

WHO = "ann-of-green-gables"
NEXT = NIGHT + timedelta(days=1)


def of_who(row: dict[str, Any]) -> dict[str, Any]:
    """The rows of ann, under a name that stands nowhere else."""
    return {name: value.replace("ann", WHO) if isinstance(value, str) else value for name, value in row.items()}


HERS = [of_who(row) if row["user_id"] == "ann" else row for row in ITEMS]
HER_TASKS = [of_who(row) if row["user_id"] == "ann" else row for row in TASKS]
BROKEN = f'{{"user_id": "{WHO}", "text": "unfinished'.encode()


@pytest.fixture(scope="module")
def made_once(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
    train_notes: Callable[..., object],
) -> Path:
    """A warehouse of two nights, one of them done twice, with a changed text, a broken line and a plug."""
    folder = tmp_path_factory.mktemp("lived_in")
    warehouse, plug = Warehouse(folder / "warehouse"), folder / "plug"
    ingest_histories(warehouse, [jsonl(folder / "items.jsonl", *HERS)], NIGHT, kinds)
    ingest_tasks(warehouse, [jsonl(folder / "tasks.jsonl", *HER_TASKS)], NIGHT, kinds)
    train_notes(warehouse, plug, batch_size=4)
    for _ in range(2):
        encode_night(warehouse, NIGHT, encode_config, kinds, force=True)
        generate_night(warehouse, NIGHT, [plug], generate_config, kinds, force=True)
    changed = HERS[0] | {"text": "apples of another year"}
    ingest_histories(
        warehouse, [jsonl(folder / "more.jsonl", changed, HERS[1] | {"posted_at": "never"}, BROKEN)], NEXT, kinds
    )
    encode_night(warehouse, NEXT, encode_config, kinds)
    return folder


@pytest.fixture
def lived_in(made_once: Path, tmp_path: Path) -> tuple[Warehouse, Path]:
    """A copy of that warehouse, and the plug."""
    return Warehouse(shutil.copytree(made_once / "warehouse", tmp_path / "warehouse")), made_once / "plug"


def traces_of(warehouse: Warehouse, who: str) -> tuple[set[str], set[Vector]]:
    """Id, texts and vectors of a user that no other user has, of whatever version."""
    mine, theirs = set[Any](), set[Any]()
    for path in warehouse.root.rglob("ds=*/*.parquet"):
        table = pa.parquet.ParquetFile(path).read()
        if "user_id" in table.column_names:
            for row in table.to_pylist():
                wanted = [row.get(name) for name in ("text", "input", "vector", "persona", "vectors")]
                (mine if row["user_id"] == who else theirs).update(leaves(wanted))
    alone = mine - theirs
    texts, vectors = {leaf for leaf in alone if isinstance(leaf, str)}, {v for v in alone if not isinstance(v, str)}
    assert texts
    return texts | {who}, vectors


def others(warehouse: Warehouse) -> dict[str, list[str]]:
    """All rows of other users, as text."""
    names = [name for name in TABLES if "user_id" in TABLES[name].names]
    return {
        name: sorted(map(repr, rows(warehouse, f"from {name} as row where not contains(row::text, '{WHO}')")))
        for name in names
    }


def test_no_file_tells_of_a_forgotten_user_and_every_kind_of_file_did(
    lived_in: tuple[Warehouse, Path], kinds: dict[str, Kind], encode_config: EncodeConfig, tmp_path: Path
) -> None:
    warehouse, plug = lived_in
    shards = warehouse.root / "_shards" / "encode" / "killed"
    write_shard(shards / "00000.persona_vectors.parquet", pa.table({"user_id": ["bob", WHO]}))
    other_shards = warehouse.root / "_shards" / "encode" / "of_bob"
    write_shard(other_shards / "00000.persona_vectors.parquet", pa.table({"user_id": ["bob"]}))
    (other_shards / "00000.json").write_text('{"index": 0, "rows_in": 1}', encoding="utf8")
    (warehouse.root / "_staging" / "killed").mkdir(parents=True)
    (warehouse.root / "_staging" / "killed" / "histories.parquet").write_bytes(b"PAR1 not finished " + WHO.encode())
    (warehouse.root / "_spill-killed").mkdir()
    (warehouse.root / "_spill-killed" / "duckdb_temp.tmp").write_bytes(WHO.encode())
    write_shard(warehouse.folder("histories") / f"ds={NIGHT}" / "never_committed.parquet", pa.table({"user_id": [WHO]}))
    log_an_old_kind_of_range(warehouse)
    texts, vectors = traces_of(warehouse, WHO)
    assert vectors
    before = telling_files(warehouse.root, texts, vectors)
    places = {"histories", "history_vectors", "persona_vectors", "tasks", "outputs", "rejects"}
    assert {name.split("/")[0] for name in before} == places | {"_shards", "_staging", "_spill-killed"}
    assert any(name.startswith("histories/_delta_log/") for name in before)
    kept = others(warehouse)

    found = forget_user(warehouse, WHO, [plug], reader_seconds=0)

    assert telling_files(warehouse.root, texts, vectors) == set()
    assert {place.place for place in found} == places | {"other files", f"plug {plug}"}
    assert others(warehouse) == kept
    assert other_shards.is_dir()
    assert not shards.exists()
    with connect(warehouse) as db:
        assert {name: table.to_pylist() for name, table in run_checks(db, None).items() if table.num_rows} == {}
    record = encode_night(warehouse, NEXT + timedelta(days=1), encode_config, kinds)
    assert (record.rows_out, record.tokens) == (0, 0), "the others' vectors stay"


def log_an_old_kind_of_range(warehouse: Warehouse) -> None:
    """Commit a file of histories with the least and the greatest user id, as the log once held them."""
    path = warehouse.folder("histories") / f"ds={NIGHT}" / "old.parquet"
    with connect(warehouse) as db:
        hers = db.sql(f"select * exclude ds from histories where user_id = '{WHO}'").to_arrow_table()
    write_shard(path, hers.cast(file_schema("histories")))
    facts = {"numRecords": 12, "minValues": {"user_id": WHO}, "maxValues": {"user_id": WHO}}
    add = AddAction(f"ds={NIGHT}/old.parquet", path.stat().st_size, {"ds": f"{NIGHT}"}, 0, True, json.dumps(facts))
    warehouse.create("histories").create_write_transaction([add], "append", TABLES["histories"], ["ds"])


def test_a_dry_run_counts_and_changes_nothing(lived_in: tuple[Warehouse, Path]) -> None:
    warehouse, plug = lived_in
    before = {path: path.stat().st_mtime_ns for path in warehouse.root.rglob("*")}
    found = {place.place: place for place in forget_user(warehouse, WHO, [plug], dry_run=True)}
    assert {path: path.stat().st_mtime_ns for path in warehouse.root.rglob("*")} == before
    counts = {name: place.row_count for name, place in found.items()}
    assert counts == {
        **{"histories": 12, "history_vectors": 13, "persona_vectors": 2, "tasks": 2, "outputs": 2, "rejects": 1},
        **{"other files": 0, f"plug {plug}": 0},
    }
    assert forget_user(warehouse, "nobody", [plug], dry_run=True) == []


def test_rows_of_a_forgotten_user_are_refused_without_a_word_of_them(
    fill: Fill, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    warehouse = fill(HERS)
    forget_user(warehouse, WHO, reader_seconds=0)
    deleted = {"user_id": WHO, "item_id": "1", "kind": "note", "deleted": True}
    broken = [note_item(WHO, 3, "", "red"), {"user_id": WHO, "kind": 7}, BROKEN, deleted]
    histories = jsonl(
        tmp_path / "h.jsonl", note_item(WHO, 1, "wild roses", "red"), *broken, note_item("bob", 99, "x", "")
    )
    assert ingest_histories(warehouse, [histories], NEXT, kinds).rows_rejected == 5
    tasks = jsonl(tmp_path / "t.jsonl", task("her-task", WHO, "roses"), task("bobs-task", "bob", "boats"))
    assert ingest_tasks(warehouse, [tasks], NEXT, kinds).rows_rejected == 1
    items = [{"id": "1", "text": "wild roses", "title": "Roses", "date": "2020"}, {"id": "2"}]
    questions = [
        {"id": who, "input": "Generate a headline for the following article: wild roses", "profile": items}
        for who in (WHO, "cid")
    ]
    (tmp_path / "q.json").write_text(json.dumps(questions), encoding="utf8")
    ingest_lamp(warehouse, tmp_path / "q.json", None, NEXT, kinds)
    found = [(row, reason) for row, reason in refused(warehouse) if reason == "forgotten_user"]
    assert sorted(found) == [
        *((f"h.jsonl:{line}", "forgotten_user") for line in (1, 2, 3, 5)),
        *(("q.json", "forgotten_user") for _ in range(3)),
        ("t.jsonl:1", "forgotten_user"),
    ]
    where = "where reason = 'forgotten_user'"
    assert rows(warehouse, f"select distinct user_id, detail from rejects {where}") == [(None, "")]
    told = telling_files(warehouse.root, {WHO}, set())
    assert told == set()
    assert rows(warehouse, "select count(*) from histories where user_id = 'bob'") == [(7,)]
    assert rows(warehouse, "select task_id from tasks order by all") == [("bobs-task",), ("cid",)]


def test_an_unknown_user_can_be_forgotten_in_advance_and_twice(
    fill: Fill, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    warehouse = fill(HERS)
    for _ in range(2):
        assert forget_user(warehouse, "dora", reader_seconds=0) == []
    file = jsonl(tmp_path / "d.jsonl", note_item("dora", 1, "dolls", "red"))
    assert ingest_histories(warehouse, [file], NEXT, kinds).rows_rejected == 1
    assert rows(warehouse, "select job, status from runs where job = 'forget'") == [("forget", "done")] * 2
    assert len(read_forgotten(warehouse).hashes) == 1


@pytest.mark.parametrize("user_id", ["", " ", "\t\n"])
def test_an_empty_id_is_wrong_usage_and_touches_nobody(user_id: str, fill: Fill) -> None:
    warehouse = fill(HERS)
    before = {path: path.stat().st_mtime_ns for path in warehouse.root.rglob("*")}
    with pytest.raises(UsageError, match=r"is empty: name one user"):
        forget_user(warehouse, user_id)
    assert {path: path.stat().st_mtime_ns for path in warehouse.root.rglob("*")} == before


def test_an_id_that_is_no_text_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no text"):
        forget_user(Warehouse(tmp_path), "\udcff")


hostile = st.one_of(
    st.sampled_from(
        ["%", "_", "*", "?", "'", '"', "''", "' or '1'='1", "../..", "/", "ds=2026-11-02", "a%", ".", "-", "null", "--"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(str.strip),
)


@settings(max_examples=3, phases=[Phase.explicit, Phase.generate])
@example("1", ["11", "01"])
@example("*", ["a", "%", "_"])
@example("user_id", ["text", "item_id"])
@given(hostile, st.lists(hostile, max_size=3))
def test_only_the_very_user_is_forgotten(user_id: str, more: list[str]) -> None:
    near = {user_id + "x", "x" + user_id, user_id[:-1], user_id.swapcase(), f"{user_id}/{user_id}", "bob", *more}
    users = sorted({name for name in near if name.strip()} - {user_id})
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(Path(folder) / "w")
        items = [note_item(name, 1, f"text {number}", user_id) for number, name in enumerate([user_id, *users])]
        refusals = [item | {"text": ""} for item in items]
        kinds = {"note"}
        ingest_histories(warehouse, [jsonl(Path(folder) / "h", *items, *refusals)], NIGHT, kinds)
        ingest_tasks(
            warehouse,
            [jsonl(Path(folder) / "t", *(task(f"t{name}", name, "x") for name in [user_id, *users]))],
            NIGHT,
            kinds,
        )
        forget_user(warehouse, user_id, reader_seconds=0)
        for table in ("histories", "tasks", "rejects"):
            assert sorted(name for (name,) in rows(warehouse, f"select user_id from {table}")) == users, table
        again = ingest_histories(warehouse, [Path(folder) / "h"], NIGHT, kinds)
        assert (again.unchanged, again.changed) == (len(users), 0)


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.5])
def test_a_killed_forgetting_is_completed_by_the_next(seconds: float, lived_in: tuple[Warehouse, Path]) -> None:
    warehouse, _ = lived_in
    texts, vectors = traces_of(warehouse, WHO)
    kept = others(warehouse)
    code = (
        "import signal, sys; from pathlib import Path; from pipelines.forget import forget_user; "
        "from pipelines.tables.warehouse import Warehouse; import deltalake, duckdb; "
        f"signal.setitimer(signal.ITIMER_REAL, {seconds}); "  # whose signal ends the process where it is
        "forget_user(Warehouse(Path(sys.argv[1])), sys.argv[2], reader_seconds=0.2)"
    )
    subprocess.run([sys.executable, "-c", code, str(warehouse.root), WHO], check=False, cwd=ROOT, capture_output=True)
    forget_user(warehouse, WHO, reader_seconds=0)
    assert telling_files(warehouse.root, texts, vectors) == set()
    assert others(warehouse) == kept
    assert WHO in read_forgotten(warehouse)


ROOT = Path(__file__).parent.parent.parent


def test_readers_see_all_of_a_users_rows_or_none(lived_in: tuple[Warehouse, Path]) -> None:
    warehouse, _ = lived_in
    question = " union all ".join(
        f"select '{name}', count(*) filter (user_id = '{WHO}'), count(*) filter (user_id <> '{WHO}') from {name}"
        for name in ("histories", "history_vectors", "persona_vectors", "tasks", "outputs")
    )
    before = {name: (hers, theirs) for name, hers, theirs in rows(warehouse, question)}
    seen, failures, is_over = list[tuple[str, int, int]](), list[Exception](), threading.Event()

    def poll() -> None:
        while not is_over.is_set():
            try:
                seen.extend(rows(warehouse, question))
            except Exception as error:
                failures.append(error)

    reader = threading.Thread(target=poll)
    reader.start()
    forget_user(warehouse, WHO)
    is_over.set()
    reader.join()
    assert failures == []
    assert {(hers == 0, name) for name, hers, _ in seen} >= {(False, name) for name in before}
    for name, hers, theirs in seen:
        assert (hers, theirs) in (before[name], (0, before[name][1]))


def test_a_job_and_a_forgetting_wait_for_each_other(
    fill: Fill, kinds: dict[str, Kind], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.nights.runs.PATIENCE", 0.05)
    warehouse = fill(HERS)
    with recorded_run(warehouse, "encode", NIGHT, {}):
        with recorded_run(warehouse, "generate", NIGHT, {}):
            pass
        with pytest.raises(PplugError, match=r"`pplug encode` is running in .*: run the command again when it is done"):
            forget_user(warehouse, WHO)
    with (
        recorded_run(warehouse, "expire", NIGHT, {}, Excludes.ALL),
        pytest.raises(PplugError, match="`pplug expire` is running"),
    ):
        fill(HERS)
    assert forget_user(warehouse, WHO, reader_seconds=0)


def test_what_is_left_is_told_and_the_request_stands(fill: Fill) -> None:
    warehouse = fill(HERS)
    (warehouse.root / "notes.txt").write_text(f"ask {WHO} again", encoding="utf8")
    with pytest.raises(
        PplugError, match=r"1 files still tell of the user: notes\.txt: delete them and run the command"
    ):
        forget_user(warehouse, WHO, reader_seconds=0)
    assert WHO in read_forgotten(warehouse)
    assert rows(warehouse, "select status from runs where job = 'forget'") == [("failed",)]
    (warehouse.root / "notes.txt").unlink()
    assert [place.place for place in forget_user(warehouse, WHO, reader_seconds=0)] == []


@pytest.mark.parametrize("user_id", ["forget", "1", str(utc_now().date()), "█"])
def test_an_id_that_is_a_word_of_ours_can_be_forgotten(user_id: str, fill: Fill, kinds: dict[str, Kind]) -> None:
    warehouse = fill([note_item(user_id, 1, "roses", "red"), note_item("bob", 1, "boats", "blue")], ds=utc_now().date())
    assert forget_user(warehouse, user_id, reader_seconds=0)[0].place == "histories"
    assert rows(warehouse, "select user_id from histories") == [("bob",)]
    assert user_id in read_forgotten(warehouse)


@pytest.mark.parametrize("linked", ["histories", "histories/ds=2026-11-02", "_shards", "_staging"])
def test_a_folder_that_is_a_link_is_followed(linked: str, fill: Fill, tmp_path: Path) -> None:
    warehouse, elsewhere = fill(HERS), tmp_path / "elsewhere"
    for name in ("_shards/encode/x/0.parquet", "_staging/killed/0.parquet"):
        write_shard(warehouse.root / name, pa.table({"user_id": [WHO]}))
    shutil.move(warehouse.root / linked, elsewhere)
    (warehouse.root / linked).symlink_to(elsewhere)
    found = forget_user(warehouse, WHO, reader_seconds=0)
    assert [place.place for place in found] == ["histories", "other files"]
    assert telling_files(elsewhere, {WHO}, set()) | telling_files(warehouse.root, {WHO}, set()) == set()
    assert rows(warehouse, "select count(*) from histories") == [(7,)]
    assert (warehouse.root / linked).is_symlink()


def test_names_of_files_that_hold_the_id_go(fill: Fill, kinds: dict[str, Kind], tmp_path: Path) -> None:
    warehouse, folder = fill(HERS), tmp_path / WHO
    folder.mkdir()
    bad = note_item("bob", 98, "", "blue")
    ingest_histories(
        warehouse, [jsonl(folder / f"of_{WHO}.jsonl", bad), jsonl(folder / f"{WHO}.jsonl", bad)], NEXT, kinds
    )
    forget_user(warehouse, WHO, reader_seconds=0)
    assert telling_files(warehouse.root, {WHO}, set()) == set()
    kept = rows(warehouse, "select user_id, row_id from rejects order by row_id")
    assert kept == [("bob", "of_█████.jsonl:1"), ("bob", "█████.jsonl:1")]


def test_a_plug_tells_of_its_users_by_keyed_hashes_alone(lived_in: tuple[Warehouse, Path], tmp_path: Path) -> None:
    warehouse, plug = lived_in
    told = "".join(path.read_text("utf8") for path in plug.glob("*.json"))
    assert hashlib.sha256(WHO.encode()).hexdigest() not in told
    assert made_key(warehouse).hash(WHO) in told
    for path in warehouse.root.rglob("*"):
        assert not path.is_file() or hashlib.sha256(WHO.encode()).hexdigest().encode() not in path.read_bytes()
    with pytest.raises(InputMissing, match="with the key of another warehouse, so nobody can tell"):
        forget_user(Warehouse(tmp_path), WHO, [plug], dry_run=True)
    report = shutil.copytree(plug, tmp_path / "old") / "training.json"
    for content in ("", "[]", '{"user_id_sha256": []}'):
        report.write_text(content)
        with pytest.raises(InputMissing, match="does not tell whom the plug was trained with: run `pplug train --plug"):
            forget_user(warehouse, WHO, [report.parent], dry_run=True)


def test_a_folder_without_a_trained_plug_is_missing(fill: Fill, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"training\.json is not there, .*: check --plug"):
        forget_user(fill(HERS), WHO, [tmp_path])


def test_the_error_of_a_failed_run_no_longer_names_the_user(fill: Fill) -> None:
    warehouse = fill(HERS)

    def fail() -> None:
        with recorded_run(warehouse, "encode", NIGHT, {}):
            raise PplugError(f"no vector for {WHO!r}")

    with pytest.raises(PplugError):
        fail()
    assert forget_user(warehouse, WHO, reader_seconds=0)[-1].place == "runs"
    errors = rows(warehouse, "select error from runs where job = 'encode'")
    assert errors == [("no vector for '█████'",)]
