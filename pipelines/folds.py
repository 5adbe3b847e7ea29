"""Compare on users never met: each task is answered by plugs and baselines fitted to the users of other folds.

    users ─▶ folds, by a hash ─┬─▶ histories of the other folds' users ─▶ trained methods, a plug for each seed ─┐
                               └─▶ tasks of the fold's users, whose own history is all that is known ───────────┴─▶ arms
    all folds' answers ─▶ one table

Items are encoded once for all folds. Beside it the plug is trained on everybody, these users included: the arm `met`.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from embedder.errors import InputMissing, UsageError
from embedder.hashing import hash_share
from embedder.plug_config import TURNS
from llm_jobs.closed import refused, with_values
from llm_jobs.kinds import Kind
from llm_jobs.metrics import evaluate_answers
from llm_jobs.training.data import TrainConfig
from pipelines.answers.models import GenerateConfig, trainable
from pipelines.baselines.answering import Arm, answer_arms
from pipelines.baselines.cases import Case
from pipelines.baselines.labels import LabelRegression, most_frequent
from pipelines.baselines.methods import BaselineContext, Method, TrainedPlug
from pipelines.baselines.night import NightOfKind, compared_models
from pipelines.baselines.registry import ATTENTION, MET, METHODS, OWN_PLUG, SHUFFLED
from pipelines.baselines.table import OWN
from pipelines.baselines.training import FoldTrainer
from pipelines.compare import CompareConfig
from pipelines.evaluate import JOB, keep_rows, referenced_tasks
from pipelines.examples import examples_of
from pipelines.nights.plans import Plan
from pipelines.nights.runs import Progress, no_progress, recorded_run
from pipelines.tables import Row
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.train import require_free
from pipelines.training_data import TrainingData

logger = logging.getLogger(__name__)

FREE_ARMS: Final = ("own", "other", "default", SHUFFLED, MET, "none", "plug_turns")
TURNS_ARMS: Final = ("own", "other", "default", "none")
CLOSED_ARMS: Final = ("own", "other", "default", SHUFFLED, MET, "label_mode", "label_vote", "label_regression")
"""What is compared unless --methods says so; other methods take a training through the LLM for each fold and seed."""


@dataclass(frozen=True)
class FoldConfig:
    """How users are divided, and how often each method is trained."""

    count: int = 5
    """Folds."""
    seeds: int = 3
    """Trainings of every trained method in each fold; a task has as many answers."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How plugs are trained; its seed is the first."""
    limit: int | None = None
    """Most examples of all users together, as many of each user as can be; all unless given."""
    folder: Path | None = None
    """Where trained plugs are kept, so that a run that was killed goes on; nowhere unless given."""
    aggregation: str = ATTENTION
    """Of the plug itself: ATTENTION, or TURNS of free answers, which takes no training."""

    def __post_init__(self) -> None:
        if self.aggregation not in (ATTENTION, TURNS):
            told = f"--aggregation {self.aggregation} is no plug of its own"
            raise UsageError(f"{told}: leave it out, or compare with turns")
        if self.count < 2 or self.seeds < 1:
            raise UsageError(f"--folds wants at least 2 folds and 1 seed, not {self.count} and {self.seeds}")

    def require(self, methods: Sequence[str]) -> None:
        """Refuse methods that say nothing of a plug that nobody trains.

        Raises:
            UsageError: naming the first.
        """
        if self.aggregation == TURNS and (wrong := sorted({SHUFFLED, MET} & {*methods})):
            told = f"--methods {wrong[0]} is of a plug that learns, and --aggregation {TURNS} does not"
            raise UsageError(f"{told}: leave one out")

    def usual(self, *, is_closed: bool) -> Sequence[str]:
        """The methods unless others are wanted."""
        if is_closed:
            return CLOSED_ARMS
        return TURNS_ARMS if self.aggregation == TURNS else FREE_ARMS

    def plug_of(self, name: str) -> str | None:
        """The plug that a method needs: an aggregation, or another name of the registry."""
        plug = METHODS[name].plug
        return self.aggregation if plug == OWN_PLUG else plug

    def is_trained(self, name: str) -> bool:
        """Whether another seed gives a method other answers."""
        return self.plug_of(name) not in (None, TURNS)


def fold_of(user_id: str, count: int) -> int:
    """The fold of a user: a hash of the id alone, with words of its own before it."""
    return int(hash_share(f"fold {user_id}") * count)


def compare_folds(
    warehouse: Warehouse,
    ds: date,
    kinds: Mapping[str, Kind],
    config: GenerateConfig,
    compare: CompareConfig,
    folds: FoldConfig,
    *,
    progress: Progress = no_progress,
) -> pa.Table:
    """Answer the night's tasks by what was fitted to other users, and append the numbers to `evaluations`.

    Args:
        warehouse: read; only `evaluations` and `runs` are appended to.
        ds: night of the tasks.
        kinds: how each kind is worded and scored.
        config: the models.
        compare: the kind, and the methods where others than the usual ones are wanted.
        folds: how users are divided.
        progress: told of steps and tasks done.

    Returns:
        The new rows of `evaluations`.

    Raises:
        InputMissing: if no task of the kind has a reference, or no night up to `ds` was encoded.
        UsageError: if the kind must be named.
    """
    settings = asdict(config) | {"compare": asdict(compare), "folds": asdict(folds)}
    with recorded_run(warehouse, JOB, ds, settings) as record:
        scored = referenced_tasks(warehouse, ds)
        kind = kinds[kind_of(scored, compare.kind, kinds)]
        mine = [row for row in scored if row["kind"] == kind.name]
        models = compared_models(warehouse, config, record)
        night = NightOfKind(warehouse, ds, kinds, kind, models, mine)
        table = keep_rows(warehouse, ds, record, FoldedComparison(night, compare, folds).rows(progress))
        record.rows_in = record.rows_out = len(mine)
    return table


def plan_folds(
    warehouse: Warehouse, ds: date, kinds: Mapping[str, Kind], compare: CompareConfig, folds: FoldConfig
) -> Plan:
    """How many answers `compare_folds` would ask for; nothing is written, and nothing is known of its time."""
    scored = referenced_tasks(warehouse, ds)
    name = kind_of(scored, compare.kind, kinds)
    mine = [row for row in scored if row["kind"] == name]
    usual = folds.usual(is_closed=any(row["choices"] for row in mine))
    chosen = {OWN, *(compare.methods or usual)}
    answers = sum(METHODS[name].draws * (folds.seeds if folds.is_trained(name) else 1) for name in chosen)
    return Plan(JOB, ds, len({row["user_id"] for row in mine}), answers * len(mine))


def kind_of(scored: Sequence[Row], wanted: str | None, kinds: Mapping[str, Kind]) -> str:
    """The kind that is compared: the one wanted, or the only one with tasks."""
    there = sorted({row["kind"] for row in scored} & kinds.keys())
    if wanted is not None and wanted not in there:
        raise InputMissing(f"no task of kind {wanted} has a reference: run `pplug ingest tasks FILE`")
    if wanted is None and len(there) != 1:
        raise UsageError(f"the night has tasks of several kinds ({', '.join(there)}): choose one with --kind")
    return wanted or there[0]


class FoldedComparison:
    """One kind of task of one night."""

    def __init__(self, night: NightOfKind, compare: CompareConfig, folds: FoldConfig) -> None:
        self._night, self._compare, self._folds = night, compare, folds

    def rows(self, progress: Progress) -> list[dict[str, Any]]:
        """Rows of `evaluations`, apart from the run."""
        arms, item_counts, night = dict[str, Arm](), dict[str, int](), self._night
        with connect(night.warehouse) as db:
            reader = night.reader(db)
            reader.require_items()
            data = night.data(reader.persona_ds, self._folds.limit)
            require_free(data, self._folds.aggregation)
            names = self._names(data)
            learns = any(self._folds.is_trained(name) or METHODS[name].is_closed for name in names)
            targets = data.targets.found if learns else []
            examples = examples_of(targets, data.items if learns else [], night.kinds, night.models.encoder)
            trainer = FoldTrainer(night, data, examples, self._folds.train, progress, self._folds.folder)
            met = {
                seed: trainer.trained(self._folds.aggregation, seed, lambda _: True)
                for seed in self._seeds
                if MET in names
            }
            for fold in range(self._folds.count):
                mine = [row for row in night.tasks if fold_of(row["user_id"], self._folds.count) == fold]
                if not mine:
                    continue
                cases = night.reader(db, mine, with_texts=TURNS in {self._folds.plug_of(name) for name in names})
                item_counts |= cases.item_counts
                chunks = [self._with_values(chunk) for chunk in cases.chunks()]
                for methods in self._methods(trainer, fold, names, met):
                    found = answer_arms(chunks, methods, night.models.llm, cases.task_count, progress)
                    for name, arm in found.items():
                        arms.setdefault(name, Arm()).add_all(arm)
        self._log_seeds(arms, data)
        members = night.members(item_counts, lambda row: [f"fold {fold_of(row['user_id'], self._folds.count)}"])
        in_order = sorted(members.items(), key=lambda member: (member[0].startswith("fold"), member[0] != "all"))
        return night.rows(arms, dict(in_order), data)

    def _names(self, data: TrainingData) -> list[str]:
        self._folds.require(self._compare.methods)
        usual = self._folds.usual(is_closed=bool(data.labels))
        wrong = [name for name in self._compare.methods if METHODS[name].is_free and data.labels]
        if wrong:
            kind = self._night.kind.name
            raise UsageError(f"--methods {wrong[0]} answers free texts, and kind {kind} is closed: leave it out")
        return [name for name in METHODS if name == OWN or name in (self._compare.methods or usual)]

    @property
    def _seeds(self) -> range:
        first = self._folds.train.seed
        return range(first, first + self._folds.seeds)

    def _methods(
        self, trainer: FoldTrainer, fold: int, names: Sequence[str], met: Mapping[int, TrainedPlug]
    ) -> Iterator[dict[str, Method]]:
        """The arms of a fold, seed by seed; what is not trained by seed comes with the first."""

        def is_known(user_id: str) -> bool:
            return fold_of(user_id, self._folds.count) != fold

        known = [example for example in trainer.examples if is_known(example.user_id)]
        common = most_frequent([example.target for example in known])
        for seed in self._seeds:
            of_seed = [name for name in names if self._folds.is_trained(name) or seed == self._seeds[0]]
            if not of_seed:
                continue
            plugs = {MET: met[seed]} if met else {}
            for need in sorted({str(METHODS[name].plug) for name in of_seed} - {"None", MET}):
                aggregation = self._folds.aggregation if need == OWN_PLUG else need
                plugs[need] = trainer.trained(aggregation, seed, is_known)
            regression = LabelRegression.fit(known) if "label_regression" in of_seed else None
            context = BaselineContext(self._night.kind, trainable(self._night.models.llm), plugs, regression, common)
            yield {name: METHODS[name].build(context) for name in of_seed}

    def _with_values(self, cases: Sequence[Case]) -> list[Case]:
        """The cases with the LLM's values of their prompts, which all arms and seeds see, where plugs see these."""
        llm = self._night.models.llm
        if not (self._night.kind.sees_llm_values and llm.values_width):
            return list(cases)
        read = [case.personal for case in cases if refused(llm, case.personal, can_be_said=True) is None]
        known = {id(task): found for task, found in zip(read, with_values(llm, read), strict=True)}
        return [replace(case, personal=known.get(id(case.personal), case.personal)) for case in cases]

    def _log_seeds(self, arms: Mapping[str, Arm], data: TrainingData) -> None:
        """Tell how far the seeds of each trained method are apart."""
        for name, arm in arms.items():
            draws = len(next(iter(arm.scored.values()), []))
            if not self._folds.is_trained(name) or draws % self._folds.seeds:
                continue
            each = draws // self._folds.seeds
            by_seed = [
                [one for found in arm.scored.values() for one in found[at * each : (at + 1) * each]]
                for at in range(self._folds.seeds)
            ]
            values = [evaluate_answers(self._night.kind.metric, answers, data.choices) for answers in by_seed]
            told = ", ".join(f"{found[0].value:.3f}" for found in values if found)
            logger.info("%s: %s by seed %s", name, values[0][0].metric if values[0] else "", told)
