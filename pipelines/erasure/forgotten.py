"""Who asked to be forgotten: a keyed hash of each id in `runs`, and the key in a file of the warehouse.

The ids of users are easy to guess, and so a plain hash of one is as good as the id. Without the key nobody can try.
"""

import hmac
import secrets
from dataclasses import dataclass
from typing import Final

from embedder.errors import PplugError
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse

JOB: Final = "forget"
KEY_FILE: Final = "_forgotten.key"


@dataclass(frozen=True)
class Forgotten:
    """The users who asked to be forgotten."""

    key: bytes = b""
    """Of the warehouse; empty where nobody ever asked."""
    hashes: frozenset[str] = frozenset()

    def __contains__(self, user_id: object) -> bool:
        return bool(self.hashes) and isinstance(user_id, str) and keyed_hash(self.key, user_id) in self.hashes


def keyed_hash(key: bytes, user_id: str) -> str:
    """HMAC-SHA256 of an id, 64 hexadecimal digits."""
    return hmac.digest(key, user_id.encode("utf8", "replace"), "sha256").hex()


def read_forgotten(warehouse: Warehouse) -> Forgotten:
    """Who was forgotten so far.

    Raises:
        PplugError: if somebody was, but the key is gone.
    """
    version = warehouse.version("runs")
    if version is None:
        return Forgotten()
    with connect(warehouse, {"runs": version}) as db:
        hashes = run_sql(db, "jobs/forgotten_users")["user_hmac_sha256"].to_pylist()
    if not hashes:
        return Forgotten()
    key = warehouse.store.get(KEY_FILE)
    if key is None:
        told = "is gone, and with it who asked to be forgotten: restore it from a backup"
        raise PplugError(f"{warehouse}/{KEY_FILE} {told}")
    return Forgotten(key, frozenset(hashes))


def request_hash(warehouse: Warehouse, user_id: str) -> str:
    """The keyed hash of an id that shall be forgotten; makes the key for the first one."""
    known = read_forgotten(warehouse)
    if not known.hashes:
        warehouse.store.put_new(KEY_FILE, secrets.token_bytes(32))
    return keyed_hash(known.key or warehouse.store.get(KEY_FILE) or b"", user_id)
