"""A kind of task is data: one small TOML file that says how its texts are worded, answered and measured.

    kinds/LaMP_4.toml, [kinds.NAME] of pplug.toml ─▶ load_kinds ─▶ Kind

Wordings of the built-in kinds are those of the LaMP benchmark, https://github.com/LaMP-Benchmark/LaMP.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from embedder.errors import UsageError

FOLDER = Path(__file__).parent / "kinds"

SPOKEN: Mapping[str, str] = {
    "citation": "LaMP_1",
    "movie_tag": "LaMP_2",
    "news_category": "LaMP_2N",
    "rating": "LaMP_3",
    "headline": "LaMP_4",
    "paper_title": "LaMP_5",
    "mail_subject": "LaMP_6",
    "paraphrase": "LaMP_7",
}
"""Names that say what a built-in kind is, and the benchmark's names, which tables hold; either may be typed."""


class Metric(StrEnum):
    """How answers of a kind are measured."""

    ACCURACY = "accuracy"
    """Accuracy, and F1 over the fixed labels or those that occur."""
    RATING = "rating"
    """MAE and RMSE of a number."""
    ROUGE = "rouge"
    """ROUGE-1 and ROUGE-L, official and for any script."""


def _template(*names: str, needs: str = "") -> AfterValidator:
    """Check a wording whose only placeholders are `names`; `needs` must be one of them."""

    def check(text: str) -> str:
        placeholders = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
        if placeholders - set(names):
            raise ValueError(f"may hold {{{'}, {'.join(names)}}} only; write other braces twice")
        if needs and needs not in placeholders:
            raise ValueError(f"must hold {{{needs}}}")
        return text

    return AfterValidator(check)


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"is no regular expression ({error})") from error
    if groups != 1:
        raise ValueError("must have one group")
    return text


def _labels(choices: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(choices)) < len(choices) or not all(choice.strip() for choice in choices):
        raise ValueError("must be different texts, none empty")
    return choices


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of task. Wordings are filled with `str.format`, braces in a user's text mean nothing."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1)]
    """What `kind` holds in the tables: the name of the file, or NAME of [kinds.NAME]."""
    metric: Metric
    """How answers are measured: `accuracy` (with F1) of labels, `rating` (MAE, RMSE) of numbers, `rouge` of texts. Of
    ratings the plug answers the median by their probabilities, else the most probable choice."""
    item_text: Annotated[str, _template("text", "output", needs="output")] = "{output}\n{text}"
    """What the encoder reads of a history item. The output comes first: a long text is cut at its end."""
    item_text_without_output: Annotated[str, _template("text", needs="text")] = "{text}"
    """The same for an item without output."""
    query_marker: str = ""
    """A task's query, which its persona depends on, is what follows the first marker in its input; all of the input if
    the marker is empty. The kind's own prompt must have it before {text}."""
    query_text: Annotated[str, _template("query", needs="query")] = "{query}"
    """What the encoder reads of a task's query."""
    prompt: Annotated[str, _template("text", "choices", needs="text")] | None = None
    """The prompt of a history item as a task, to train with, and of a task that brings `text` alone; none if items of
    this kind are no targets."""
    target: Annotated[str, _template("output", needs="output")] = "{output}"
    """The answer to that prompt."""
    retrieved_item: Annotated[str, _template("text", "output")] = '"{text}" '
    """One history item in the prompt of the retrieval baseline."""
    retrieved_prompt: Annotated[str, _template("items", "input", needs="items")] = "{items}. {input}"
    """That prompt, or, with `retrieved_after`, what stands in it in place of that word."""
    retrieved_after: str = ""
    """The items are written after the first occurrence of this word; empty: around the whole input."""
    choices: Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(_labels)] | None = None
    """Closed answers; none for free text. A task may bring its own."""
    choices_pattern: Annotated[str, AfterValidator(_pattern)] | None = None
    """Finds the list of choices, separated by commas, in a task's input."""
    sees_llm_values: bool = False
    """The plug also sees what the LLM itself made of the prompt: for labels that depend on how a text says what it
    says, like ratings, which text encoders tell less of than of topics. Closed answers only, and causal LLMs of the
    engine `transformers`."""
    max_new_tokens: Annotated[int, Field(strict=True, gt=0)] = 32
    """Most tokens of a free answer. The answer of a closed kind is as long as its choice."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end a free answer before them, like a line break."""
    no_repeat: Annotated[int, Field(strict=True, ge=0)] = 0
    """A guard against repetitions: no run of so many tokens comes twice in a free answer; 0 for none."""
    lamp_prompt: str = ""
    """How the input of a LaMP question of this kind begins."""
    lamp_text: str = "text"
    """The field of a LaMP profile item that becomes `text`."""
    lamp_output: str | None = None
    """The field of a LaMP profile item that becomes `output`; unless given, items have none."""

    def encoder_text(self, text: str, output: str | None) -> str:
        """Word a history item for the encoder."""
        if output is None:
            return self.item_text_without_output.format(text=text)
        return self.item_text.format(text=text, output=output)

    def label_of(self, output: str | None) -> str | None:
        """What an item's output says of the user's choices; None for free text, which is no choice."""
        return None if self.metric is Metric.ROUGE else output

    def query(self, task_input: str) -> str | None:
        """Find the part of a task's input that is not instruction; None if the marker or all after it is missing."""
        _, marker, rest = task_input.partition(self.query_marker) if self.query_marker else ("", "", task_input)
        return rest.strip() or None if marker or not self.query_marker else None

    def query_encoder_text(self, task_input: str) -> str:
        """Word a task for the encoder; one without the marker with all of its input."""
        return self.query_text.format(query=self.query(task_input) or task_input)

    def training_prompt(self, text: str, choices: Sequence[str] | None = None) -> str:
        """Word a history item as a task with the choices of the tasks to come; the kind's own unless given."""
        assert self.prompt is not None, f"items of kind {self.name} are no targets"
        return self.prompt.format(text=text, choices=", ".join(choices or self.choices or ()))

    def with_retrieved(self, items: Sequence[tuple[str, str | None]], task_input: str) -> str:
        """Word the prompt of the retrieval baseline, of text and output of the user's items, best first."""
        texts = [self.retrieved_item.format(text=text, output=output or "") for text, output in items]
        if not texts:
            return task_input
        if not self.retrieved_after:
            return self.retrieved_prompt.format(items=", and ".join(texts), input=task_input)
        head, word, tail = task_input.partition(self.retrieved_after)
        return head + self.retrieved_prompt.format(items=", and ".join(texts), input=word) + tail if word else head

    def choices_in(self, task_input: str) -> tuple[str, ...] | None:
        """Find the choices that the input itself names, else the kind's own."""
        listed = re.search(self.choices_pattern, task_input) if self.choices_pattern else None
        named = tuple(label.strip() for label in listed[1].split(",") if label.strip()) if listed else ()
        return tuple(dict.fromkeys(named)) or self.choices

    @property
    def sha256(self) -> str:
        """Fingerprint of what changes the texts that the encoder reads."""
        names = ("item_text", "item_text_without_output", "query_marker", "query_text")
        return hashlib.sha256(json.dumps([asdict(self)[name] for name in names]).encode()).hexdigest()


_KIND = TypeAdapter(Kind)
_SAMPLE = "\0text\0"  # a text that no wording and no marker holds


def field_meanings() -> dict[str, str]:
    """Explain each field of a kind, in the order of the class: the docstrings below its fields."""
    fields: Mapping[str, Any] = _KIND.json_schema()["properties"]
    return {name: " ".join(field.get("description", "").split()) for name, field in fields.items()}


def _kind(name: str, table: object, source: str) -> Kind:
    if not isinstance(table, Mapping):
        raise UsageError(f"{source}: {table!r} is not a table: write [kinds.{name}]")
    try:
        kind = _KIND.validate_python({**table, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        seen = "" if first["type"] == "missing" else f" = {first['input']!r}"
        told = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{source}: {where}{seen}: {told}: correct it in this file") from error
    if kind.prompt is not None and _SAMPLE not in (kind.query(kind.training_prompt(_SAMPLE)) or ""):
        marker = f"the query_marker {kind.query_marker!r} before {{text}}"
        raise UsageError(f"{source}: prompt = {kind.prompt!r}: must hold {marker}: correct one of the two in this file")
    return kind


def load_kinds(extra: Mapping[str, Any] | None = None) -> dict[str, Kind]:
    """Load the built-in kinds and those of `pplug.toml`.

    Args:
        extra: the `[kinds]` table of `pplug.toml`, already parsed. Under a built-in name, what it leaves out stays.

    Raises:
        UsageError: naming file, field and value.
    """
    tables: dict[str, dict[str, Any]] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        tables[path.stem] = tomllib.loads(path.read_text(encoding="utf8"))
    kinds = {name: _kind(name, table, f"{FOLDER / name}.toml") for name, table in tables.items()}
    for name, table in (extra or {}).items():
        merged = {**tables.get(name, {}), **table} if isinstance(table, Mapping) else table
        kinds[name] = _kind(name, merged, f"pplug.toml [kinds.{name}]")
    return kinds
