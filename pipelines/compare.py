"""Compare a plug with every other way to personalise the same frozen LLM, on the same tasks of a night.

    plugs ─▶ by kind and aggregation ─┐
    histories ─▶ regression, LoRA ────┼─▶ methods ─▶ answers of all arms ─▶ metrics per slice ─▶ evaluations
    tasks, personas, items ─▶ cases ──┘

Nothing is written but numbers: `outputs` stays as it is, and need not be there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from embedder.errors import UsageError
from embedder.models import model_folder
from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig, Models, trainable
from pipelines.baselines.answering import Arm, answer_arms, answer_timed, tell_of_shortened
from pipelines.baselines.cases import CaseReader
from pipelines.baselines.kept import NUMBER_BYTES
from pipelines.baselines.labels import LabelRegression, most_frequent
from pipelines.baselines.lora import LoraConfig, adapt, most_active
from pipelines.baselines.methods import BaselineContext, Method, without_persona
from pipelines.baselines.night import NightOfKind, compared_models
from pipelines.baselines.plugs import PlugsOfKind, compared_plugs
from pipelines.baselines.registry import LORA, METHODS, OF_FOLDS
from pipelines.baselines.table import OWN
from pipelines.evaluate import JOB, keep_rows, referenced_tasks
from pipelines.examples import Target, examples_of
from pipelines.generate import generate_job
from pipelines.nights.night import plan_night
from pipelines.nights.plans import Plan
from pipelines.nights.runs import Progress, no_progress, recorded_run
from pipelines.slices import ORDER
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.training_data import TrainingData

LORA_SLICE = "lora users"
"""The slice of the users who have an adapter of their own; the only one that has the arm `lora`."""


@dataclass(frozen=True)
class CompareConfig:
    """What is compared."""

    kind: str | None = None
    """Only this kind; all that have a plug unless given."""
    methods: tuple[str, ...] = ()
    """Names of `METHODS`; every one that can answer unless given. The plug itself is always there."""
    lora_users: int = 0
    """Users, the most active ones, for whom an adapter is trained; that takes minutes for each."""
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            hint = "; lora is asked for with --lora-users N" if unknown[0] == LORA else ""
            raise UsageError(f"--methods {unknown[0]!r} is not known: use {', '.join(METHODS)}{hint}")


def compare_night(
    warehouse: Warehouse,
    ds: date,
    kinds: Mapping[str, Kind],
    plugs: Sequence[Path],
    config: GenerateConfig,
    compare: CompareConfig,
    *,
    progress: Progress = no_progress,
) -> pa.Table:
    """Answer the night's tasks in every arm, append the numbers to `evaluations`, and return them.

    Args:
        warehouse: read; only `evaluations` and `runs` are appended to.
        ds: night of the tasks.
        kinds: how each kind is worded and scored.
        plugs: folders; of each kind the plug itself, and those with other aggregations as its baselines.
        config: the models.
        compare: what is compared.
        progress: told of the tasks done.

    Raises:
        InputMissing: if no task of the night has a reference, no night up to it was encoded, or a library is missing.
        UsageError: if the plugs do not fit together, or a method lacks its plug.
    """
    settings = asdict(config) | {"plugs": [str(folder) for folder in plugs], "compare": asdict(compare)}
    with recorded_run(warehouse, JOB, ds, settings) as record:
        scored = referenced_tasks(warehouse, ds)
        models = compared_models(warehouse, config, record)
        rows, shortened = list[dict[str, Any]](), 0
        for name, of_kind in chosen_plugs(plugs, models, kinds, compare).items():
            mine = [row for row in scored if row["kind"] == name]
            night = NightOfKind(warehouse, ds, kinds, kinds[name], models, mine)
            more, count = compared_rows(night, of_kind, config, compare, progress)
            rows, shortened = rows + more, shortened + count
            record.rows_in += len(mine)
        record.rows_out = record.rows_in
        record.config = {**record.config, "shortened_count": shortened}
        return keep_rows(warehouse, ds, record, rows)


def chosen_plugs(
    folders: Sequence[Path], models: Models, kinds: Mapping[str, Kind], compare: CompareConfig
) -> dict[str, PlugsOfKind]:
    """The plugs of each kind that is compared."""
    found = compared_plugs(folders, models)
    if compare.kind is not None:
        if compare.kind not in found:
            raise UsageError(f"no plug answers kind {compare.kind!r}: pass one of {', '.join(found)} with --kind")
        found = {compare.kind: found[compare.kind]}
    for name in found.keys() - kinds.keys():
        raise UsageError(f"kind {name!r} of a plug is not known: add [kinds.{name}] to pplug.toml")
    return found


def compared_rows(
    night: NightOfKind, plugs: PlugsOfKind, config: GenerateConfig, compare: CompareConfig, progress: Progress
) -> tuple[list[dict[str, Any]], int]:
    """Rows of `evaluations`, apart from the run, and how many answers are to prompts that lost their middle."""
    with connect(night.warehouse) as db:
        reader = night.reader(db, with_texts=any(one.plug.config.turns for one in plugs.plugs.values()))
        reader.require_items()
        data = night.data(reader.persona_ds)
        methods = chosen_methods(night, plugs, data, compare.methods, has_others=reader.has_others)
        arms = answer_arms(reader.chunks(), methods, night.models.llm, reader.task_count, progress)
        found = night.members(reader.item_counts)
        members = {name: found[name] for name in ORDER if name in found}
        if compare.lora_users:
            arms[LORA], members[LORA_SLICE] = lora_arm(reader, data.targets.found, config, compare, progress)
    return night.rows(arms, members, data), tell_of_shortened(arms.values())


def chosen_methods(
    night: NightOfKind, of_kind: PlugsOfKind, data: TrainingData, wanted: Sequence[str], *, has_others: bool
) -> dict[str, Method]:
    """Those that can answer; of the ones asked for by name all must have their plug."""
    kind, models, plugs = night.kind, night.models, of_kind.plugs
    outputs = [target.target for target in data.targets.found]
    is_closed = any(row["choices"] for row in night.tasks) and len(set(outputs)) > 1
    names = list[str]()
    for name, entry in METHODS.items():
        is_possible = (is_closed or not entry.is_closed) and (has_others or name != "other")
        is_possible = is_possible and not (entry.is_free and of_kind.points)
        has_plug = entry.plug is None or entry.plug in plugs
        if name in wanted and entry.plug in OF_FOLDS:
            raise UsageError(f"--methods {name} is trained for a comparison on folds: add --folds 5")
        if name in wanted and not has_plug:
            raise UsageError(
                f"--methods {name} needs a plug of kind {kind.name} trained with --aggregation {entry.plug}: "
                "pass it with --plug"
            )
        if name == OWN or (is_possible and has_plug and (not wanted or name in wanted)):
            names.append(name)
    regression = None
    if "label_regression" in names:
        items = [item for item in data.items if item["kind"] == kind.name]
        examples = examples_of(data.targets.found, items, {kind.name: kind}, models.encoder)
        regression = LabelRegression.fit(examples)
    context = BaselineContext(kind, trainable(models.llm), plugs, regression, most_frequent(outputs))
    return {name: METHODS[name].build(context) for name in names}


def lora_arm(
    reader: CaseReader,
    targets: Sequence[Target],
    config: GenerateConfig,
    compare: CompareConfig,
    progress: Progress,
) -> tuple[Arm, list[str]]:
    """The arm of the most active users' own adapters, and their tasks."""
    settings: dict[str, Any] = {"num_beams": config.num_beams, "thinking": config.thinking}
    base = FrozenLLM.from_pretrained(config.llm, "float32", config.cache, **settings)
    folder = model_folder(config.llm, config.cache)
    arm, tasks = Arm(train_seconds=0.0), list[str]()
    users = most_active(targets, list(reader.task_counts), compare.lora_users)
    for done, user in enumerate(users, start=1):
        own = [target for target in targets if target.user_id == user]
        adapted = adapt(base, folder, own, compare.lora)
        cases = reader.cases_of(user, user)
        alone = Method(user_bytes=lambda _, kept=NUMBER_BYTES * adapted.parameters: kept, requests=without_persona)
        answer_timed(cases, {LORA: alone}, {LORA: arm}, adapted.llm)
        arm.parameters = adapted.parameters
        arm.train_seconds = (arm.train_seconds or 0.0) + adapted.seconds
        tasks += [case.task.task_id for case in cases]
        progress("adapters", done, len(users))
    return arm, tasks


def plan_compare(
    warehouse: Warehouse,
    ds: date,
    kinds: Mapping[str, Kind],
    plugs: Sequence[Path],
    config: GenerateConfig,
    compare: CompareConfig,
) -> Plan:
    """What `compare_night` would answer, adapters and label methods apart; nothing is written."""
    referenced_tasks(warehouse, ds)
    chosen = chosen_plugs(plugs, compared_models(warehouse, config), kinds, compare)
    own = [of_kind.own for of_kind in chosen.values()]
    one_arm = plan_night(generate_job(list(dict.fromkeys(own)), config, kinds, force=True), warehouse, ds)
    there = {name for of_kind in chosen.values() for name in of_kind.plugs}
    names = [name for name in compare.methods or METHODS if METHODS[name].plug in {None, *there}]
    return one_arm.times(sum(METHODS[name].draws for name in {OWN, *names} if not METHODS[name].is_closed), JOB)
