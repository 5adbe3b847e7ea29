"""Read JSON: a line for each object, or one list of objects of any size.

JSONL     ─▶ json_lines    ─▶ (line, value or Reject)
JSON list ─▶ json_elements ─▶ (place, value or Reject)     of a broken list, what stands before the break
"""

import contextlib
import io
import json
import re
from collections.abc import Generator, Iterator
from typing import IO, Any, Final, NoReturn

from pipelines.intake import limits
from pipelines.intake.chunks import Numbered
from pipelines.intake.rejects import Reject, described

CHUNK_CHARACTERS: Final = 2**20
ELEMENT_CHARACTERS: Final = 2**28  # an element that has no end by then is broken

LIST: Final = re.compile(r"\s*\[\s*")
_SIGN: Final = re.compile(r"\s*([,\]])\s*")


class _RepeatedField(Exception):
    """A JSON object names a field twice: which one is meant?"""


def json_lines(file: IO[bytes]) -> Iterator[Numbered]:
    """Read the lines that are not blank; of one that is too long nothing is kept."""
    number = 0
    while line := file.readline(limits.LINE_BYTES):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) == limits.LINE_BYTES and not line.endswith(b"\n"):
            yield number, Reject("row_too_large", f"a line of more than {limits.LINE_BYTES} bytes")
            while (rest := file.readline(limits.LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
        elif line.strip():
            yield number, parse_line(line)


def parse_line(line: bytes) -> object | Reject:
    """The JSON value of a line."""
    try:
        return _DECODER.decode(line.decode("utf8"))
    except UnicodeDecodeError:
        return Reject("not_utf8", described(line))
    except _RepeatedField:
        return Reject("repeated_field", described(line))
    except (ValueError, RecursionError):  # RecursionError: thousands of brackets
        return Reject("broken_json", described(line))


@contextlib.contextmanager
def text_of_file(file: IO[bytes]) -> Generator[IO[str]]:
    """Read a file as text; a bad byte becomes a half of a character, which refuses its row alone."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield text
    finally:
        text.detach()  # or it would close the file


def json_elements(file: IO[bytes]) -> Iterator[Numbered]:
    """Read the elements of a list with their places."""
    with text_of_file(file) as text:
        yield from enumerate(elements(text), 1)


def elements(file: IO[str], opening: re.Pattern[str] = LIST, head: str = "") -> Iterator[object | Reject]:
    """The elements of a JSON list; of a broken one, those before the break and then a refusal.

    Args:
        file: read once, piece by piece.
        opening: what stands before the first element. Where it ends in more than a bracket, as in an object that
            holds the list, what follows the list is not looked at.
        head: what was read of the file already.
    """
    text = head + file.read(CHUNK_CHARACTERS)
    start = opening.match(text)
    if start is None:
        yield Reject("not_a_list", described(text))
        return
    at, sign = start.end(), ","
    while sign == ",":
        try:
            found, at, sign = _element(text, at)
        except (ValueError, RecursionError):
            chunk = file.read(max(CHUNK_CHARACTERS, len(text) - at)) if len(text) - at < ELEMENT_CHARACTERS else ""
            if not chunk:
                yield Reject("broken_json", described(text[at:]))
                return
            text, at = (text[at:] + chunk).lstrip(), 0
        else:
            yield from found
    rest = (text[at:] + file.read(1000)).strip()
    if rest and opening is LIST:
        yield Reject("broken_json", "more after the end of the list")


def _element(text: str, at: int) -> tuple[list[object], int, str]:
    """The element at `at` if there is one, where the next begins, and the `,` or `]` between.

    Raises:
        ValueError: if the text ends before the element does, or the element is broken.
    """
    found: list[object] = []
    if text[at : at + 1] != "]":
        value, at = json.JSONDecoder().raw_decode(text, at)
        found.append(value)
    sign = _SIGN.match(text, at)
    if sign is None:
        raise ValueError("the text ends inside the list")
    return found, sign.end(), sign[1]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise _RepeatedField
    return fields


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
"""Made once: `json.loads` makes one for each line, which takes as long as reading it."""
