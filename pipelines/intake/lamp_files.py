"""LaMP's JSON files, read so that a broken one gives what it can.

questions.json ─▶ elements ─▶ question or Refusal     one at a time: the largest file has gigabytes
outputs.json ─▶ read_golds ─▶ Golds
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from embedder.errors import PplugError
from llm_jobs.labels import label_text
from pipelines.intake.rows import Refusal, shown

CHUNK_CHARACTERS: Final = 2**20
ELEMENT_CHARACTERS: Final = 2**28
"""An element that has no end by then is broken."""

_OPENING: Final = re.compile(r"\s*\[\s*")
_SIGN: Final = re.compile(r"\s*([,\]])\s*")


@dataclass(frozen=True)
class Golds:
    """The answers of an outputs file."""

    task: str | None = None
    outputs: dict[str, str] = field(default_factory=dict[str, str])
    refused: tuple[tuple[str, Refusal], ...] = ()
    """Row id and refusal of what is no answer."""


def text_of(value: object) -> object:
    """A number as text, for ids and scores; anything else as it is."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def elements(path: Path) -> Iterator[object | Refusal]:
    """The elements of a JSON list; of a broken one, those before the break and then a refusal."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:  # a bad byte refuses its row alone
        text = file.read(CHUNK_CHARACTERS)
        opening = _OPENING.match(text)
        if opening is None:
            yield Refusal("not_a_list", shown(text[:1000]))
            return
        at, sign = opening.end(), ","
        while sign == ",":
            try:
                found, at, sign = _element(text, at)
            except (ValueError, RecursionError):
                chunk = file.read(max(CHUNK_CHARACTERS, len(text) - at)) if len(text) - at < ELEMENT_CHARACTERS else ""
                if not chunk:
                    yield Refusal("broken_json", shown(text[at : at + 1000]))
                    return
                text, at = (text[at:] + chunk).lstrip(), 0
            else:
                yield from found
        rest = (text[at:] + file.read(1000)).strip()
        if rest:
            yield Refusal("broken_json", shown(f"after the list: {rest}"))


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


def read_golds(path: Path | None) -> Golds:
    """The answers of an outputs file; none of no file.

    Raises:
        PplugError: if it is not of LaMP's shape.
    """
    if path is None:
        return Golds()
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        task, entries = content.get("task"), list(content["golds"])
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise PplugError(f'{path} is not {{"task": ..., "golds": [...]}}: give LaMP\'s outputs file') from error
    outputs: dict[str, str] = {}
    refused: list[tuple[str, Refusal]] = []
    answers = [(number, _gold(entry)) for number, entry in enumerate(entries, 1)]
    different = Counter(gold[0] for gold in {gold for _, gold in answers if not isinstance(gold, Refusal)})
    for number, gold in answers:
        if isinstance(gold, Refusal):
            refused.append((f"{path.name}:{number}", gold))
        elif different[gold[0]] > 1:
            refused.append((gold[0], Refusal("conflicting_gold", shown(gold[1]), gold[0])))
        else:
            outputs[gold[0]] = gold[1]
    return Golds(task if isinstance(task, str) else None, outputs, tuple(refused))


def _gold(entry: object) -> tuple[str, str] | Refusal:
    if not isinstance(entry, Mapping):
        return Refusal("not_an_object", shown(entry))
    question, output = text_of(entry.get("id")), label_text(entry.get("output"))
    if not isinstance(question, str):
        return Refusal("missing_id" if question is None else "wrong_type_id", shown(entry))
    if not isinstance(output, str):
        return Refusal("missing_output" if output is None else "wrong_type_output", shown(entry), question)
    return question, output
