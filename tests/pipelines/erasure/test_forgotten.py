from pathlib import Path

import pytest

from embedder.errors import PplugError
from pipelines.erasure.forgotten import KEY_FILE, Forgotten, keyed_hash, read_forgotten, request_hash
from pipelines.forget import forget_user
from pipelines.tables.warehouse import Warehouse


def test_nobody_is_forgotten_in_a_new_warehouse(tmp_path: Path) -> None:
    forgotten = read_forgotten(Warehouse(tmp_path))
    assert forgotten == Forgotten()
    assert "ann" not in forgotten
    assert None not in forgotten


def test_the_forgotten_are_known_by_a_hash_that_only_the_key_gives(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    forget_user(warehouse, "ann")
    forget_user(warehouse, "bob")
    forgotten = read_forgotten(warehouse)
    assert [name in forgotten for name in ("ann", "bob", "an", "anna", "ANN", "")] == [True, True, *[False] * 4]
    assert len(forgotten.key) == 32
    assert forgotten.hashes == {keyed_hash(forgotten.key, name) for name in ("ann", "bob")}
    assert keyed_hash(b"another key", "ann") not in forgotten.hashes
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o077 == 0, "only its owner reads the key"


def test_two_warehouses_have_two_keys(tmp_path: Path) -> None:
    hashes = set[str]()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        hashes.add(request_hash(Warehouse(tmp_path / name), "ann"))
    assert len(hashes) == 2


def test_a_lost_key_is_told_and_never_replaced(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    forget_user(warehouse, "ann")
    (tmp_path / KEY_FILE).unlink()
    for attempt in (lambda: read_forgotten(warehouse), lambda: forget_user(warehouse, "bob")):
        with pytest.raises(PplugError, match=r"_forgotten\.key is gone, .*: restore it from a backup"):
            attempt()
    assert not (tmp_path / KEY_FILE).exists()
