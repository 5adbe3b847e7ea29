"""One warehouse has one place, however it is spelled, and folders above it say nothing about its rows."""

from datetime import date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from embedder.errors import UsageError
from pipelines.cli import main
from pipelines.store.stored import local_path
from pipelines.tables.parquet import write_shard
from pipelines.tables.schema import file_schema
from pipelines.tables.upsert import upsert
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

NIGHT = date(2026, 11, 20)


def items(*users: str) -> pa.Table:
    row = {"item_id": "1", "kind": "LaMP_4", "posted_at": datetime(2026, 11, 1), "text": "rain", "output": "Rain"}
    row |= {"is_edit": False}
    return pa.Table.from_pylist([row | {"user_id": user} for user in users], schema=file_schema("histories"))


@pytest.fixture
def item_file(tmp_path: Path) -> str:
    path = tmp_path / "items.jsonl"
    path.write_text('{"user_id": "ann", "item_id": "1", "kind": "LaMP_4", "posted_at": "2026-10-01", "text": "rain"}\n')
    return str(path)


@pytest.mark.parametrize("url", ["hdfs://n/w", "https://h/w", "ftp://h/w", "file://host/w", "S3:/b/w"])
def test_a_url_of_something_else_is_refused_and_makes_no_folder(
    url: str, item_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["ingest", "histories", item_file, "--ds", "2026-11-01", "--warehouse", url]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"{url} is no place for a warehouse: name a folder, file:///FOLDER, or one of s3://, gs://, az://, abfss://"
    ]
    assert main(["train", "--plug", url, "--warehouse", "w"]) == 2
    assert capsys.readouterr().err.splitlines() == [f"{url} is no place on this machine: name a path, or file:///PATH"]
    assert main(["report", "--ds", "2026-11-01", "--out", url, "--warehouse", "w"]) == 2
    monkeypatch.setenv("PPLUG_WAREHOUSE", url)
    assert main(["runs"]) == 2
    if not url.startswith("file"):
        with pytest.raises(UsageError, match="is no place for a warehouse"):
            Warehouse(Path(url))
    assert list((tmp_path / "here").iterdir()) == []


def test_a_file_url_and_a_home_are_folders(
    item_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    what = ["ingest", "histories", f"file://{item_file}", "--ds", "2026-11-01", "--warehouse"]
    assert main([*what, f"file://{tmp_path}/my%20tables"]) == 0
    assert (tmp_path / "my tables" / "histories").is_dir()
    monkeypatch.setenv("PPLUG_WAREHOUSE", "~/other")
    assert main(what[:-1]) == 0
    assert (tmp_path / "other" / "histories").is_dir()
    monkeypatch.setenv("PPLUG_OUT", "~/report.html")
    assert main(["report", "--ds", "2026-11-01"]) == 0
    assert (tmp_path / "report.html").is_file()
    assert list((tmp_path / "here").iterdir()) == []
    capfd.readouterr()


def test_what_a_name_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    given = ["w", "/w", "./~/w", "~/w", "file:///w", "file:/w", "file://localhost/w", "FILE:///w", "C:/w", "a:b", "a b"]
    found = ["w", "/w", "~/w", "/home/ann/w", "/w", "/w", "/w", "/w", "C:/w", "a:b", "a b"]
    assert [str(local_path(name)) for name in given] == found
    with pytest.raises(UsageError, match="no home folder of that user"):
        local_path("~nobody-of-this-name/w")


def test_a_link_and_the_way_up_from_it_lead_to_one_warehouse(tmp_path: Path, item_file: str) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    what = ["ingest", "histories", item_file, "--ds", "2026-11-01", "--warehouse"]
    assert main([*what, f"{tmp_path}/link/../x"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "items.jsonl", "link"]
    assert (tmp_path / "far" / "x" / "histories" / "_delta_log").is_dir()
    assert Warehouse(tmp_path / "link/../x").root == Warehouse(tmp_path / "far/x").root
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(UsageError, match="leads nowhere"):
        Warehouse(tmp_path / "circle" / "x")


@pytest.mark.parametrize("folder", ["[x]", "st*r", "sp ace", "quo'te", 'dou"ble', "ä", "a:b", "{x}"])
def test_odd_letters_in_a_path_work(
    folder: str, item_file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = ["--warehouse", str(tmp_path / folder / "w")]
    for _ in range(2):
        assert main(["ingest", "histories", item_file, "--ds", "2026-11-01", *place]) == 0
    assert main(["check", *place]) == 0
    capfd.readouterr()
    assert main(["sql", "select ds, count(*) as items from histories group by all", "--json", *place]) == 0
    assert capfd.readouterr().out == '{"ds": "2026-11-01", "items": 1}\n'


@pytest.mark.parametrize("folder", ["user_id=zzz", "ds=2020-01-01", "kind=a", "a=1/b=2", "text=%"[:-1]])
def test_folders_above_the_warehouse_are_no_columns(folder: str, tmp_path: Path) -> None:
    warehouse, users = Warehouse(tmp_path / folder / "w"), ["ann", "bob", "cid"]
    for version, changed in enumerate((3, 0)):  # the second time all rows are there
        staged = tmp_path / f"{version}.parquet"
        rows = items(*users).drop_columns(["is_edit"])
        write_shard(staged, rows.append_column("deleted", pa.array([False] * 3)))
        assert upsert(warehouse, "histories", NIGHT, f"run-{version}", staged).get("changed", 0) == changed
    with connect(warehouse) as db:
        assert db.sql("select user_id, kind, text, ds from histories order by all").fetchall() == [
            (user, "LaMP_4", "rain", NIGHT) for user in users
        ]


def test_a_filter_on_the_night_reads_only_its_files(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "user_id=zzz")
    for day in range(1, 6):
        warehouse.append("histories", date(2026, 11, day), f"run-{day}", items("ann"))
    with connect(warehouse) as db:
        db.execute("create temp table x as select date '2026-11-03' as ds")
        plan = db.execute(
            "explain analyze select text from histories where ds = $ds", {"ds": date(2026, 11, 3)}
        ).fetchall()
    assert "Scanning Files: 1/5" in plan[0][1], duckdb.__version__
