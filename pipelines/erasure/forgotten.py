"""Who asked to be forgotten: of each id a hash in `runs`, under the key of the warehouse."""

from dataclasses import dataclass
from typing import Final

from embedder.errors import PplugError
from pipelines.erasure.user_key import KEY_FILE, LOST, UserKey, made_key, read_key
from pipelines.tables.views import asked_table
from pipelines.tables.warehouse import Warehouse

JOB: Final = "forget"


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
