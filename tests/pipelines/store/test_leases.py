"""A store that does not keep the first of two cannot hold a lease."""

from pathlib import Path

import pytest

from embedder.errors import PplugError
from pipelines.store.folder import Folder
from pipelines.store.leases import acquire

RUN = {"run_id": "r1", "job": "encode", "ds": "2026-11-01", "started_at": "2026-11-01T00:00:00+00:00"}


class Overwriting(Folder):
    """As a server that has never heard of If-None-Match."""

    def put_new(self, name: str, data: bytes) -> bool:
        self.put(name, data)
        return True


def test_a_store_that_overwrites_what_is_there_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(PplugError, match=r"cannot be used: it overwrites .*: choose a store with conditional puts"):
        acquire(Overwriting(tmp_path), "encode-2026-11-01", RUN)
    assert Folder(tmp_path).list() == []


def test_a_store_that_keeps_the_first_holds_the_lease(tmp_path: Path) -> None:
    lease, dead = acquire(Folder(tmp_path), "encode-2026-11-01", RUN)
    assert (lease.is_held(), dead) == (True, [])


def test_the_next_run_of_a_night_removes_what_a_kill_left_beside_its_lease(tmp_path: Path) -> None:
    lease, _ = acquire(Folder(tmp_path), "encode-2026-11-01", RUN)
    (tmp_path / "_running/encode-2026-11-01/.r0.beat.5f.tmp").write_bytes(b"{")
    lease.release()
    assert not (tmp_path / "_running/encode-2026-11-01").exists()
