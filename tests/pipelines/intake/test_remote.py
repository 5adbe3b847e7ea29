"""Sources in an object store, on moto's server: the rows of the same files on this machine."""

import gzip
import io
import shlex
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import Pplug
from s3_server import s3_server

from embedder.errors import InputMissing, PplugError, UsageError
from pipelines.intake.remote import is_remote, spelled
from pipelines.intake.sources import expanded, opened
from pipelines.intake.sql_rows import sql_chunks

CSV = "user_id,posted_at,text\nann,2026-10-02,rain\nbob,2026-10-03,snow\n"


def parquet() -> bytes:
    rows = pa.table({"user_id": ["cid"] * 3, "posted_at": ["2026-10-02"] * 3, "text": ["sun", "wind", "fog"]})
    written = io.BytesIO()
    pq.write_table(rows, written)
    return written.getvalue()


OBJECTS = {
    "in/a.csv": CSV.encode(),
    "in/b.csv.gz": gzip.compress(CSV.replace("rain", "hail").replace("snow", "sleet").encode()),
    "in/kind=LaMP_4/part-0.parquet": parquet(),
    "in/_log/c.csv": b"user_id\nnobody\n",
    "in/note.txt": b"no data",
}


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as options:
        names = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=options["AWS_ENDPOINT_URL"], **names)
        for name, data in OBJECTS.items():
            client.put_object(Bucket="bucket", Key=name, Body=data)
        yield options


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("in/a.csv", ["in/a.csv"]),
        ("in/note.txt", ["in/note.txt"]),
        ("in", ["in/a.csv", "in/b.csv.gz", "in/kind=LaMP_4/part-0.parquet"]),
        ("in/", ["in/a.csv", "in/b.csv.gz", "in/kind=LaMP_4/part-0.parquet"]),
        ("in/*.csv*", ["in/a.csv", "in/b.csv.gz"]),
        ("in/[ab].csv", ["in/a.csv"]),
        ("in/[!a].csv*", ["in/b.csv.gz"]),
        ("in/**/part-?.parquet", ["in/kind=LaMP_4/part-0.parquet"]),
        ("*/kind=*/*", ["in/kind=LaMP_4/part-0.parquet"]),
    ],
)
def test_objects_folders_and_globs_are_found(server: dict[str, str], given: str, found: list[str]) -> None:
    sources = expanded([Path(f"s3://bucket/{given}")], server)
    assert [source.name for source in sources] == [f"s3://bucket/{name}" for name in found]
    kinds = [source.partitions.get("kind") for source in sources]
    assert kinds == ["LaMP_4" if "kind=" in name else None for name in found] or "kind=" in given


def test_what_is_not_there_is_missing_and_a_store_that_fails_is_an_error(
    server: dict[str, str], tmp_path: Path
) -> None:
    for given in ("in/no.csv", "no", "in/*.tsv"):
        with pytest.raises(InputMissing, match=r"no file s3://bucket/"):
            expanded([Path(f"s3://bucket/{given}")], server)
    with pytest.raises(PplugError, match=r"s3://.* cannot be used"):
        expanded([Path("s3://other/in")], server)
    (source,) = expanded([Path("s3://bucket/in/a.csv")], server)
    assert source.store is not None
    source.store.delete(["gone"])
    gone = type(source)(Path("gone.csv"), {}, source.store)
    with pytest.raises(PplugError, match=r"s3://bucket/in/gone.csv cannot be read"), opened(gone, tmp_path) as file:
        file.read()


def test_pplug_ingests_from_a_bucket(server: dict[str, str], pplug: Pplug, tmp_path: Path) -> None:
    options = "".join(f'{name} = "{value}"\n' for name, value in server.items())
    place = '[warehouse]\nplace = "s3://bucket/warehouse"\n[warehouse.options]\n'
    (tmp_path / "pplug.toml").write_text(place + options, encoding="utf8")
    files = pplug("ingest", "histories", "s3://bucket/in", "--kind", "headline", "--json")
    assert files.code == 0, files.err
    assert (files.rows[0]["rows_out"], files.rows[0]["rows_rejected"]) == (7, 0)
    texts = pplug("sql", "select text from histories", "--json").rows
    assert sorted(row["text"] for row in texts) == ["fog", "hail", "rain", "sleet", "snow", "sun", "wind"]


def test_a_query_reads_files_of_a_bucket(server: dict[str, str], tmp_path: Path) -> None:
    names = {"user_id": "user_id", "text": "text"}

    def texts(query: str) -> list[str]:
        chunks = [chunk.columns for chunk in sql_chunks(query, names, tmp_path, server)]
        return sorted(str(text) for columns in chunks for text in columns["text"])

    assert texts("from 's3://bucket/in/a.csv'") == ["rain", "snow"]
    assert texts("from read_csv('s3://bucket/in/*.csv*')") == ["hail", "rain", "sleet", "snow"]
    assert texts("from 's3://bucket/in/**/*.parquet' where kind = 'LaMP_4'") == ["fog", "sun", "wind"]
    with pytest.raises(UsageError, match=r"--sql failed: IO Error: No files .*s3://bucket/in/no\.csv"):
        texts("from 's3://bucket/in/no.csv'")
    with pytest.raises(UsageError, match=r"--sql failed: \w+: .*404 Not Found"):
        texts("from 's3://other/a.csv'")


def test_init_looks_at_a_file_of_a_bucket(
    server: dict[str, str], pplug: Pplug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    said = pplug("init", "--kind", "news_category", "--from", "s3://bucket/in/a.csv", "--map", "output=text", "--json")
    assert said.code == 0, said.err
    assert "s3://bucket/in/a.csv: " in said.err
    first = next(row["next"] for row in said.rows if "next" in row)
    assert first.startswith("pplug ingest histories s3://bucket/in/a.csv --like a ")
    assert pplug(*shlex.split(first)[1:]).code == 0


def test_credentials_may_be_in_the_environment(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    assert [source.label for source in expanded([Path("s3://bucket/in/*.csv")])] == ["a.csv"]


def test_a_uri_keeps_its_slashes() -> None:
    assert spelled(Path("s3://bucket/a.csv")) == "s3://bucket/a.csv"
    assert spelled(Path("a/b.csv")) == "a/b.csv"
    assert (is_remote(Path("gs://b/x")), is_remote(Path("/s3:/b")), is_remote(Path("c:/x"))) == (True, False, False)
