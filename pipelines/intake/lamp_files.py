"""LaMP's JSON files, read so that a broken one gives what it can.

questions.json ─▶ questions_of ─▶ question or Reject     one at a time: the largest file has gigabytes
outputs.json   ─▶ read_golds   ─▶ Golds
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from embedder.errors import PplugError
from pipelines.intake.columns import as_text
from pipelines.intake.json_files import LIST, elements, text_of_file
from pipelines.intake.rejects import Reject, described

HEAD_CHARACTERS: Final = 2**12
_WRAPPED: Final = re.compile(r'\s*\{\s*("task"\s*:\s*"[^"]*"\s*,\s*)?"golds"\s*:\s*\[\s*')


@dataclass(frozen=True)
class Golds:
    """The answers of an outputs file."""

    task: str | None = None
    outputs: dict[str, str] = field(default_factory=dict[str, str])
    refused: tuple[tuple[str, Reject], ...] = ()  # row id and refusal of what is no answer


def questions_of(file: IO[bytes]) -> Iterator[object | Reject]:
    """The questions of a file: a list, or, as for Avocado (LaMP_6), the list `golds` of an object."""
    with text_of_file(file) as text:
        head = text.read(HEAD_CHARACTERS)
        opening = _WRAPPED if _WRAPPED.match(head) else LIST
        yield from elements(text, opening, head)


def read_golds(path: Path | None) -> Golds:
    """The answers of an outputs file; none of no file. Raises PplugError if it is not of LaMP's shape."""
    if path is None:
        return Golds()
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        task, entries = content.get("task"), list(content["golds"])
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise PplugError(f'{path} is not {{"task": ..., "golds": [...]}}: give LaMP\'s outputs file') from error
    outputs: dict[str, str] = {}
    refused: list[tuple[str, Reject]] = []
    answers = [(number, _gold(entry)) for number, entry in enumerate(entries, 1)]
    different = Counter(gold[0] for gold in {gold for _, gold in answers if not isinstance(gold, Reject)})
    for number, gold in answers:
        if isinstance(gold, Reject):
            refused.append((f"{path.name}:{number}", gold))
        elif different[gold[0]] > 1:
            refused.append((gold[0], Reject("conflicting_gold", described(gold[1]), gold[0])))
        else:
            outputs[gold[0]] = gold[1]
    return Golds(task if isinstance(task, str) else None, outputs, tuple(refused))


def _gold(entry: object) -> tuple[str, str] | Reject:
    if not isinstance(entry, Mapping):
        return Reject("not_an_object", described(entry))
    question, output = as_text(entry.get("id")), as_text(entry.get("output"))
    if question is None:
        return Reject("missing_id" if entry.get("id") is None else "wrong_type_id", described(entry.get("id")))
    if output is None:
        found = entry.get("output")
        return Reject("missing_output" if found is None else "wrong_type_output", described(found), question)
    return question, output
