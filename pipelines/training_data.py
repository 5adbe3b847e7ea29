"""What a plug is trained on: targets from histories and from the tasks of named nights.

histories ─▶ items with an output, but those whose text a task asks about ─┐
tasks of the nights named ─────────────────────────────────────────────────┴─▶ targets of one kind
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from embedder.errors import InputMissing, UsageError
from embedder.plug_config import TURNS
from llm_jobs.kinds import Kind, Metric
from pipelines.examples import ChoiceLists, Target, Targets, held_texts, history_targets, task_targets
from pipelines.tables import Row
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlugChoice:
    """Which plug is trained, on what and on whom."""

    kind: str | None  # kind of task; None where the histories hold only one
    until: date  # last day whose items are used
    task_nights: tuple[date, ...] = ()  # nights whose references are used as targets too
    aggregation: str = "attention"
    """How a history becomes a persona: a name in `embedder.plug_config.PROJECTED`."""
    limit: int | None = None  # most examples, as many of each user as can be; all unless given
    turns: int | None = None
    """Most items that become earlier turns, with the aggregation of that name; DEFAULT_TURNS unless given."""

    def __post_init__(self) -> None:
        if self.turns is not None and self.aggregation != TURNS:
            raise UsageError(f"--turns {self.turns} goes with --aggregation {TURNS} only: leave it out, or add that")


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a plug is trained on."""

    kind: Kind
    items: Sequence[Row]  # all items of all users up to the last day, sorted by user and time
    targets: Targets
    choices: Sequence[str] | None  # every label that a task of a closed kind can be answered with

    @property
    def labels(self) -> tuple[str, ...]:
        """What a plug has a score for: the choices, where most targets are one of them; none otherwise."""
        choices = tuple(self.choices or ()) if self.kind.prompt is not None else ()
        return choices if 2 * self.known_count > len(self.targets.found) and len(choices) > 1 else ()

    @property
    def outputs(self) -> dict[str, list[str]]:
        """By user what they produced for items of the kind."""
        found = defaultdict[str, list[str]](list)
        for item in self.items:
            if item["kind"] == self.kind.name and item["output"]:
                found[item["user_id"]].append(item["output"])
        return found

    @property
    def known_count(self) -> int:
        """Targets that are one of the choices."""
        known = set(self.choices or ())
        return sum(target.target in known for target in self.targets.found)

    @property
    def user_count(self) -> int:
        """Users with at least one target."""
        return len({target.user_id for target in self.targets.found})


def training_data(warehouse: Warehouse, choice: PlugChoice, kinds: Mapping[str, Kind]) -> TrainingData:
    """Read histories and tasks and choose the targets.

    Raises:
        InputMissing: if there are no histories, or a night named has no task of the kind.
        UsageError: if the kind is not known, or not given where several could be meant.
    """
    with connect(warehouse) as db:
        items = run_sql(db, "jobs/items_until", {"until": choice.until}).to_pylist()
        chosen = kinds[choose_kind(items, choice.kind, kinds)]
        tasks = run_sql(db, "jobs/training_tasks", {"kind": chosen.name}).to_pylist()
    missing = set(choice.task_nights) - {task["ds"] for task in tasks}
    if missing:
        raise InputMissing(
            f"no tasks of kind {chosen.name} for {min(missing)}: run `pplug ingest tasks FILE --ds {min(missing)}`"
        )
    return data_of(items, tasks, chosen, set(choice.task_nights), choice.limit)


def data_of(
    items: Sequence[Row], tasks: Sequence[Row], kind: Kind, named: set[date], limit: int | None
) -> TrainingData:
    """Choose the targets.

    Args:
        items: of all users, sorted by user and time.
        tasks: of the kind, oldest first.
        kind: of the plug.
        named: nights whose references are targets; what other nights ask about is none.
        limit: most targets; all unless given.
    """
    lists = ChoiceLists(tasks, kind)
    from_histories = history_targets(items, kind, lists, held_texts(tasks, kind, named))
    found = limited([*from_histories.found, *task_targets(tasks, kind, named)], limit)
    choices = lists.labels
    if lists.differ and len(choices or ()) > len(found):
        choices = ()  # each task brings candidates of its own: these are no classes
    return TrainingData(kind, items, replace(from_histories, found=found), choices)


def choose_kind(items: Sequence[Row], kind: str | None, kinds: Mapping[str, Kind]) -> str:
    """The kind to train for: the one given, or the only known one in the histories that has targets.

    Raises:
        InputMissing: if no item is a target.
        UsageError: if a kind is not known, or several could be meant.
    """
    if kind is not None:
        if kind not in kinds:
            raise UsageError(f"kind {kind!r} is not known: use one of {', '.join(sorted(kinds))}")
        return kind
    named = Counter(item["kind"] for item in items if item["output"])
    counts = [name for name in named if name in kinds and kinds[name].prompt is not None]
    gone = sorted(named.keys() - kinds.keys())
    if gone and not counts:
        raise UsageError(f"kind {gone[0]!r} of the histories is not known: add [kinds.{gone[0]}] to pplug.toml")
    if not counts:
        raise InputMissing("no item has an output to train on: run `pplug ingest histories FILE` first")
    if len(counts) > 1:
        raise UsageError(f"the histories hold several kinds ({', '.join(sorted(counts))}): choose one with --kind")
    return counts[0]


def limited(found: Sequence[Target], limit: int | None) -> list[Target]:
    """At most so many targets, in turn one of each user, the last of each first; in the order they had."""
    rank = dict[str, int]()
    ranked: list[tuple[int, str, int]] = []
    for at in reversed(range(len(found))):
        user = found[at].user_id
        rank[user] = rank.get(user, 0) + 1
        ranked.append((rank[user], user, at))
    return [found[at] for at in sorted(at for _, _, at in sorted(ranked)[:limit])]


def tell_of_labels(data: TrainingData) -> None:
    """Warn, with counts and no text of anybody, of outputs that are not spelled like a choice, or are none."""
    count, choices, outside = len(data.targets.found), data.choices or (), 0
    if data.kind.metric is Metric.ROUGE:
        return  # free texts, a few tasks with choices among them
    if data.targets.respelled_count:
        told = "%d outputs name a choice in another spelling (case, space or a number's zeros) and count as that choice"
        logger.warning(told, data.targets.respelled_count)
    if len(choices) == 1:
        told = "tasks of kind %s have one choice only, so there is nothing to learn: give them others in `choices`"
        logger.warning(told, data.kind.name)
    elif choices and (outside := count - data.known_count):
        lost = "" if data.labels else ", so the plug learns no labels"
        told = "%d of %d outputs are none of the %d choices of kind %s%s: correct them, or %s"
        place = f"`choices` of [kinds.{data.kind.name}] in pplug.toml"
        logger.warning(told, outside, count, len(choices), data.kind.name, lost, place)
