"""Say why a row of a file is refused, without a word of what it said."""

import re
from dataclasses import dataclass
from typing import Final

_SHAPE: Final = str.maketrans({**dict.fromkeys("123456789", "0")})
SHAPE_CHARACTERS: Final = 32


@dataclass(frozen=True)
class Reject:
    """Why a row is refused."""

    reason: str  # in snake_case, for example empty_text, wrong_type_user_id, broken_json
    detail: str = ""
    """What was found there, never the value itself: users' texts stand in the wrong places, too."""
    user_id: str | None = None


def described(value: object) -> str:
    """Tell what a value is without telling it: its type and its length."""
    match value:
        case None:
            return ""
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case str() | bytes():
            return f"a text of {len(value)} {'characters' if isinstance(value, str) else 'bytes'}"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return f"an object of {len(value)} fields"
        case _:
            return f"a {type(value).__name__}"


def shape(value: object) -> str:
    """Tell how a time is spelled, its digits as 0: never what it says."""
    text = value if isinstance(value, str) else str(value) if isinstance(value, int | float) else ""
    is_time = 0 < len(text) <= SHAPE_CHARACTERS and re.fullmatch(r"[0-9 :./+TZ-]+", text)
    return f"{described(value)} like {text.translate(_SHAPE)}" if is_time else described(value)
