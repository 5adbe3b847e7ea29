"""The key of a warehouse: wherever a hash of a user's id is kept, it is one under this key.

The ids of users are easy to guess, and so a plain hash of one is as good as the id. Without the key nobody can try.
"""

import contextlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from embedder.errors import PplugError
from pipelines.store.folder import named_causes
from pipelines.tables.warehouse import Warehouse

KEY_FILE: Final = "_forgotten.key"
KEY_BYTES: Final = 32

LOST: Final = "and with it whose the hashes are that were made with it: restore it from a backup"


@dataclass(frozen=True)
class UserKey:
    """What makes hashes of ids that nobody else can make."""

    secret: bytes

    def hash(self, user_id: str) -> str:
        """HMAC-SHA256 of an id, 64 hexadecimal digits."""
        return hmac.digest(self.secret, user_id.encode("utf8", "replace"), "sha256").hex()

    @property
    def check(self) -> str:
        """What is kept beside hashes, to tell whether a key is the one they were made with; 16 hexadecimal digits."""
        return hmac.digest(self.secret, b"\0which key", "sha256").hex()[:16]


def read_key(warehouse: Warehouse) -> UserKey | None:
    """The warehouse's key; None before there is one.

    Raises:
        PplugError: if what is there is no key, as after a loss of power.
    """
    path = f"{warehouse}/{KEY_FILE}"
    with named_causes(path):
        secret = warehouse.store.get(KEY_FILE)
    if secret is None:
        return None
    if len(secret) != KEY_BYTES:
        raise PplugError(f"{path} is damaged ({len(secret)} of {KEY_BYTES} bytes), {LOST}")
    return UserKey(secret)


def made_key(warehouse: Warehouse) -> UserKey:
    """The warehouse's key, made if there is none yet; of two who make one at once, both get the first."""
    found = read_key(warehouse)
    if found is not None:
        return found
    if warehouse.store.folder is None:
        warehouse.store.put_new(KEY_FILE, secrets.token_bytes(KEY_BYTES))
    else:
        _make_file(warehouse.root / KEY_FILE)
    made = read_key(warehouse)
    assert made is not None
    return made


def _make_file(path: Path) -> None:
    """Make a key that its owner alone may read."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    with named_causes(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(fresh, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())  # a hash must not outlive its key
            _name(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)


def _name(fresh: Path, path: Path) -> None:
    """Give a finished file its name, unless another is there already."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(fresh, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
