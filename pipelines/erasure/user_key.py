"""The key of a warehouse: wherever a hash of a user's id is kept, it is one under this key.

The ids of users are easy to guess, and so a plain hash of one is as good as the id. Without the key nobody can try.
"""

import hmac
import os
import secrets
from dataclasses import dataclass
from typing import Final

from embedder.durable import make_folder
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
    if warehouse.store.folder is not None:
        make_folder(warehouse.root)
    before = os.umask(0o077)  # its owner alone may read the key
    try:
        warehouse.store.put_new(KEY_FILE, secrets.token_bytes(KEY_BYTES))
    finally:
        os.umask(before)
    made = read_key(warehouse)
    assert made is not None
    return made
