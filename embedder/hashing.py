"""Hashes of texts: how a row names a text it does not hold, and how some are chosen for good.

item text ─▶ text_sha256 ─▶ item_sha256
user id   ─▶ hash_share  ─▶ who is held out, whatever else is in the data

An id is easy to guess from its hash: one that is kept has to be made under a key.
"""

import hashlib


def text_sha256(text: str) -> str:
    """In hexadecimal, of the text's UTF-8; half characters, which that has no bytes for, count as "?"."""
    return hashlib.sha256(text.encode("utf8", "replace")).hexdigest()


def hash_share(text: str) -> float:
    """A number of at least 0 and less than 1 that depends on the text alone, as evenly spread as chance would."""
    return int(text_sha256(text)[:8], 16) / 2**32
