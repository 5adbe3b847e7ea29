"""Make training examples for a plug: from the histories themselves, and from the tasks of nights that were named.

    items of a user, oldest first:   a  b  c  d  e
    examples:                        b from a;  c from a b;  d from a b c;  ...

An item with an `output` is a target; its history is only what was posted strictly before it. No target is an item whose
text is the text of a task in a night that was not named: that night may be evaluated later.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from embedder.encoder import TextEncoder
from llm_jobs.kinds import Kind
from llm_jobs.labels import label_key, label_of, spelled_as
from llm_jobs.training.data import Example
from pipelines.personas.bases import runs_of_equals
from pipelines.tables import Row


@dataclass(frozen=True)
class Target:
    """What becomes an example once its texts are encoded."""

    user_id: str
    prompt: str
    target: str
    query: str
    """Encoder text of the task's input."""
    moment: datetime
    """Only items posted strictly before it are the target's history."""


@dataclass(frozen=True)
class Targets:
    """The targets of a kind, and how many were left out."""

    found: Sequence[Target]
    skipped_leak_count: int
    """Items whose text is that of a task in a night that was not named."""
    respelled_count: int = 0
    """Items whose output names a choice in another spelling."""


class ChoiceLists:
    """What prompts of a closed kind list: the choices of the tasks, each user's own first."""

    def __init__(self, tasks: Iterable[Row], kind: Kind) -> None:
        """Look through the tasks of a kind, oldest first."""
        self._own = kind.choices
        self._of_user = defaultdict[str, dict[tuple[str, ...], None]](dict)  # oldest first
        self._all = dict[tuple[str, ...], None]()
        for task in tasks:
            if task["choices"]:
                choices = tuple(task["choices"])
                for known in (self._of_user[task["user_id"]], self._all):
                    known.pop(choices, None)
                    known[choices] = None
        self._holding = {label_key(label): choices for choices in self._all for label in choices}
        """By the key of a label the newest list that holds it."""

    def of(self, user_id: str, output: str) -> tuple[str, ...] | None:
        """The choices in the prompt of an item: the user's newest that hold its output, else the newest that do.

        Where no task's do, the user's newest, else the newest; those of the kind where no task has any.
        """
        mine = list(reversed(self._of_user.get(user_id, {})))
        holding = [choices for choices in mine if label_of(output, choices) is not None]
        for found in (*holding, self._holding.get(label_key(output)), *mine, next(reversed(self._all), None)):
            if found is not None:
                return found
        return self._own

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Every label once: those of the tasks, else those of the kind."""
        return tuple(dict.fromkeys(label for choices in self._all for label in choices)) or self._own

    @property
    def differ(self) -> bool:
        """Whether tasks do not all have the same choices."""
        return len({frozenset(choices) for choices in self._all}) > 1


def history_targets(items: Iterable[Row], kind: Kind, lists: ChoiceLists, held_texts: set[str]) -> Targets:
    """Targets from the items of `kind` that have an output, in the spelling of the choice that it names."""
    found: list[Target] = []
    skipped = respelled = 0
    for item in items:
        if item["kind"] != kind.name or not item["output"] or kind.prompt is None:
            continue
        if item["text"].strip() in held_texts:
            skipped += 1
            continue
        choices = lists.of(item["user_id"], item["output"])
        prompt = kind.training_prompt(item["text"], choices)
        query, target = kind.query_encoder_text(prompt), spelled_as(item["output"], choices)
        respelled += target != item["output"]
        found.append(Target(item["user_id"], prompt, target, query, item["posted_at"]))
    return Targets(found, skipped, respelled)


def task_targets(tasks: Iterable[Row], kind: Kind, named: set[date]) -> list[Target]:
    """Targets from the references of the nights in `named`, and of no other."""
    return [
        Target(
            task["user_id"],
            task["input"],
            spelled_as(task["reference"], task["choices"]),
            kind.query_encoder_text(task["input"]),
            task["queued_at"],
        )
        for task in tasks
        if task["ds"] in named and task["reference"]
    ]


def held_texts(tasks: Iterable[Row], kind: Kind, named: set[date]) -> set[str]:
    """Texts that the tasks of nights not named ask about."""
    return {(kind.query(task["input"]) or task["input"]).strip() for task in tasks if task["ds"] not in named}


def examples_of(
    targets: Sequence[Target], items: Sequence[Row], kinds: Mapping[str, Kind], encoder: TextEncoder
) -> list[Example]:
    """Encode items and queries and give each target the items strictly before it.

    Args:
        targets: what the plug shall learn to answer.
        items: all items of all users, sorted by user and then by time; items of unknown kinds are passed over.
        kinds: how an item becomes text.
        encoder: the encoder of the history vectors.
    """
    known = [item for item in items if item["kind"] in kinds]
    texts = [kinds[item["kind"]].encoder_text(item["text"], item["output"]) for item in known]
    vectors = encoder.encode(texts)
    queries = encoder.encode([target.query for target in targets], is_query=True)
    spans = {known[start]["user_id"]: (start, stop) for start, stop in runs_of_equals([i["user_id"] for i in known])}
    times = [item["posted_at"] for item in known]
    outputs = {user: tuple(one["output"] for one in known[start:stop]) for user, (start, stop) in spans.items()}
    examples: list[Example] = []
    for target, query in zip(targets, queries, strict=True):
        start, stop = spans.get(target.user_id, (0, 0))
        history = vectors[start : bisect_left(times, target.moment, start, stop)]
        examples.append(
            Example(
                target.user_id,
                target.prompt,
                target.target,
                query,
                history,
                outputs.get(target.user_id, ()),
            )
        )
    return examples
