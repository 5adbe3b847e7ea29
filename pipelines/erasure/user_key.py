"""The key of a warehouse, under which the hashes of user ids are made that are kept, and who asked to be forgotten.

The ids of users are easy to guess, and so a plain hash of one is as good as the id. Without the key nobody can try.
"""

import hmac
import os
import secrets
from dataclasses import dataclass

from embedder.durable import make_folder
from embedder.errors import PplugError
from pipelines.store.folder import named_causes
from pipelines.tables.views import asked_table
from pipelines.tables.warehouse import Warehouse

JOB = "forget"
KEY_FILE = "_forgotten.key"
KEY_BYTES = 32

LOST = "and with it whose the hashes are that were made with it: restore it from a backup"


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
    """The key, None before there is one; raises PplugError if what is there is none, as after a loss of power."""
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


@dataclass(frozen=True)
class HashedUsers:
    """Some users, such as those who asked to be forgotten, of whom only hashes are kept."""

    key: UserKey | None = None  # of the warehouse; None where there are none
    hashes: frozenset[str] = frozenset()

    def __contains__(self, user_id: object) -> bool:
        return self.key is not None and isinstance(user_id, str) and self.key.hash(user_id) in self.hashes


def read_forgotten(warehouse: Warehouse) -> HashedUsers:
    """Who was forgotten so far; raises PplugError if somebody was, and the key is gone, damaged or another one."""
    found = asked_table(warehouse, "runs", "jobs/forgotten_users").to_pylist()
    if not found:
        return HashedUsers()
    path, key = f"{warehouse}/{KEY_FILE}", read_key(warehouse)
    if key is None:
        raise PplugError(f"{path} is gone, {LOST}")
    if any(row["key_check"] != key.check for row in found):
        raise PplugError(f"{path} is not the key that users were forgotten with: restore that one from a backup")
    return HashedUsers(key, frozenset(row["user_hmac_sha256"] for row in found))


def request_of(warehouse: Warehouse, user_id: str) -> dict[str, str]:
    """What is kept of the request to forget an id; makes the key for the first one."""
    key = read_forgotten(warehouse).key or made_key(warehouse)
    return {"user_hmac_sha256": key.hash(user_id), "key_check": key.check}
