from pathlib import Path

import pytest

from embedder.errors import PplugError
from pipelines.erasure.user_key import KEY_FILE, HashedUsers, UserKey, made_key, read_forgotten, request_of
from pipelines.forget import forget_user
from pipelines.tables.warehouse import Warehouse


def test_nobody_is_forgotten_in_a_new_warehouse(tmp_path: Path) -> None:
    forgotten = read_forgotten(Warehouse(tmp_path))
    assert forgotten == HashedUsers()
    assert "ann" not in forgotten
    assert None not in forgotten


def test_the_forgotten_are_known_by_a_hash_that_only_the_key_gives(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    forget_user(warehouse, "ann")
    forget_user(warehouse, "bob")
    forgotten = read_forgotten(warehouse)
    assert [name in forgotten for name in ("ann", "bob", "an", "anna", "ANN", "")] == [True, True, *[False] * 4]
    key = made_key(warehouse)
    assert forgotten.hashes == {key.hash(name) for name in ("ann", "bob")}
    assert UserKey(b"another key").hash("ann") not in forgotten.hashes
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o077 == 0, "only its owner reads the key"
    assert [path.name for path in tmp_path.glob(f"{KEY_FILE}*")] == [KEY_FILE]


def test_two_warehouses_have_two_keys(tmp_path: Path) -> None:
    hashes = set[str]()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        hashes.add(request_of(Warehouse(tmp_path / name), "ann")["user_hmac_sha256"])
    assert len(hashes) == 2


def test_a_lost_key_is_told_and_never_replaced(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    forget_user(warehouse, "ann")
    (tmp_path / KEY_FILE).unlink()
    for attempt in (lambda: read_forgotten(warehouse), lambda: forget_user(warehouse, "bob")):
        with pytest.raises(PplugError, match=r"_forgotten\.key is gone, .*: restore it from a backup"):
            attempt()
    assert not (tmp_path / KEY_FILE).exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"is damaged \(0 of 32 bytes\), .*: restore it from a backup"),
        (b"half", "is damaged"),
        (b"k" * 32, "is not the key that users were forgotten with: restore that one"),
    ],
)
def test_a_key_that_is_not_the_one_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    warehouse = Warehouse(tmp_path)
    forget_user(warehouse, "ann")
    (tmp_path / KEY_FILE).write_bytes(content)
    for attempt in (lambda: read_forgotten(warehouse), lambda: forget_user(warehouse, "bob")):
        with pytest.raises(PplugError, match=says):
            attempt()
    assert (tmp_path / KEY_FILE).read_bytes() == content


def test_an_empty_key_is_refused_for_the_first_request_too(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"")
    with pytest.raises(PplugError, match="is damaged"):
        forget_user(Warehouse(tmp_path), "ann")
