"""What every store promises, of a folder and of a bucket."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from embedder.errors import PplugError
from pipelines.store.stored import Store, StoredObject, open_store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(tmp_path / "w")
    return open_store(f"s3://bucket/{tmp_path.name}", request.getfixturevalue("s3_options"))


def test_what_is_put_is_got_listed_and_deleted(store: Store, tmp_path: Path) -> None:
    assert (store.get("a/b"), store.list(), store.list("a")) == (None, [], [])
    (tmp_path / "file").write_bytes(b"three")
    store.put("a/ds=1/c", tmp_path / "file")
    store.put("a/b", b"one")
    store.put("a/b", b"other")
    store.put("ab", b"")
    assert store.list() == [StoredObject("a/b", 5), StoredObject("a/ds=1/c", 5), StoredObject("ab", 0)]
    assert store.list("a") == [StoredObject("a/b", 5), StoredObject("a/ds=1/c", 5)]
    assert (store.get("a/b"), store.get("ab")) == (b"other", b"")
    store.delete(["a/b", "a/ds=1/c", "never"])
    assert store.list() == [StoredObject("ab", 0)]


def test_of_many_at_once_one_puts_a_name(store: Store) -> None:
    won, barrier = list[int](), threading.Barrier(6)

    def put(number: int) -> None:
        barrier.wait()
        if store.put_new("it", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = won
    assert store.get("it") == str(winner).encode()
    assert not store.put_new("it", b"late")


def test_a_worker_gets_the_same_store(store: Store) -> None:
    store.put("a", b"1")
    assert pickle.loads(pickle.dumps(store)).get("a") == b"1"


def test_a_bucket_that_is_not_there_is_told_in_one_line(s3_options: dict[str, str]) -> None:
    with pytest.raises(PplugError, match=r"^s3://nobody-has-this/w cannot be used \(.*[^\n]*check its name"):
        open_store("s3://nobody-has-this/w", s3_options).put("a", b"1")


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="files without a name are Linux's")
@pytest.mark.parametrize("moment", ["fsync", "link"])
def test_a_kill_before_a_new_name_is_there_leaves_no_file(tmp_path: Path, moment: str) -> None:
    code = f"""
import os, signal
from pipelines.store.stored import open_store
store = open_store({str(tmp_path)!r})
store.put_new("night/first", b"1")
os.{moment} = lambda *given, **named: os.kill(os.getpid(), signal.SIGKILL)
store.put_new("night/second", b"2")
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "night").iterdir()] == ["first"]


def test_a_folder_without_unnamed_files_keeps_the_first_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    store = open_store(tmp_path)
    assert (store.put_new("night/it", b"1"), store.put_new("night/it", b"2")) == (True, False)
    assert [path.name for path in (tmp_path / "night").iterdir()] == ["it"]
    assert store.get("night/it") == b"1"
