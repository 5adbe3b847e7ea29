"""Compare a night's outputs with the references, and with what the same model says for another user, or for nobody.

    outputs ⋈ tasks ──────────────────────────────▶ arm own
    tasks ⋈ another user's persona, five draws ───▶ arm other      the mean of five
    tasks, no history ────────────────────────────▶ arm default
    tasks, no plug ───────────────────────────────▶ arm none

The control arms are answered here and written nowhere but as numbers in `evaluations`.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from embedder.errors import InputMissing, UsageError
from llm_jobs.kinds import Kind
from llm_jobs.labels import fixed_labels
from llm_jobs.metrics import Scored
from pipelines.answers.models import GenerateConfig, load_models, load_plugs
from pipelines.baselines.answering import Arm, answer_arms, tell_of_shortened
from pipelines.baselines.cases import CaseReader
from pipelines.baselines.methods import BaselineContext, TrainedPlug
from pipelines.baselines.registry import METHODS, OWN_PLUG
from pipelines.baselines.table import slice_rows
from pipelines.generate import generate_job
from pipelines.nights.night import plan_night
from pipelines.nights.plans import Plan
from pipelines.nights.precisions import with_precisions
from pipelines.nights.runs import Progress, RunRecord, no_progress, recorded_run
from pipelines.slices import ALL
from pipelines.tables.schema import file_schema
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)

JOB = "evaluate"

CONTROLS = ("other", "default", "none")  # what is answered with --controls

Arms = dict[str, list[Scored]]


def evaluate_night(
    warehouse: Warehouse,
    ds: date,
    kinds: Mapping[str, Kind],
    *,
    plugs: Sequence[Path] = (),
    config: GenerateConfig | None = None,
    progress: Progress = no_progress,
) -> pa.Table:
    """Score the night's outputs per kind, with LaMP's metrics; append the numbers to `evaluations`, and return them.

    With `plugs` the control arms are answered too, by the models of `config`.

    Raises:
        InputMissing: if no task of the night has a reference, or none was answered.
        UsageError: if none of their kinds is known; tasks of a single one that is not are left out with a warning.
    """
    config = config or GenerateConfig()
    with recorded_run(warehouse, JOB, ds, asdict(config) | {"plugs": [str(folder) for folder in plugs]}) as record:
        scored = of_known_kinds(scored_tasks(warehouse, ds), kinds)
        arms = own_answers(scored)
        if plugs:
            config = with_precisions(warehouse, config, record)
            answered = controls_of(warehouse, ds, plugs, config, kinds, scored, progress)
            for kind, controls in answered.items():
                arms[kind] |= {name: arm.answers for name, arm in controls.items()}
            count = tell_of_shortened(arm for controls in answered.values() for arm in controls.values())
            record.config = {**record.config, "shortened_count": count}
        labels = labels_of(scored, kinds)
        rows = [row for kind, by_arm in arms.items() for row in arm_rows(kinds[kind], by_arm, labels[kind])]
        table = keep_rows(warehouse, ds, record, rows)
        record.rows_in = record.rows_out = sum(len(by_arm["own"]) for by_arm in arms.values())
    return table


def keep_rows(warehouse: Warehouse, ds: date, record: RunRecord, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Append rows to `evaluations`, as those of a run."""
    table = pa.Table.from_pylist([{**row, "run_id": record.run_id} for row in rows], file_schema("evaluations"))
    warehouse.append("evaluations", ds, record.run_id, table)
    return table


def scored_tasks(warehouse: Warehouse, ds: date) -> list[dict[str, Any]]:
    """The night's tasks that have a reference, with what was written to `outputs`.

    Raises:
        InputMissing: if there are none, or none was answered.
    """
    rows = referenced_tasks(warehouse, ds)
    if all(row["output"] is None for row in rows):
        raise InputMissing(f"no task of {ds} is answered: run `pplug generate --ds {ds} --plug DIR`")
    return rows


def referenced_tasks(warehouse: Warehouse, ds: date) -> list[dict[str, Any]]:
    """The night's tasks that have a reference; `output` is null where none was written.

    Raises:
        InputMissing: if there are none.
    """
    with connect(warehouse) as db:
        rows = run_sql(db, "jobs/scored_tasks", {"ds": ds}).to_pylist()
    if not rows:
        raise InputMissing(f"no task of {ds} has a reference: run `pplug ingest tasks FILE --ds {ds}`")
    return rows


def of_known_kinds(rows: Sequence[dict[str, Any]], kinds: Mapping[str, Kind]) -> list[dict[str, Any]]:
    """The tasks whose kind is known; a warning tells of the others, a UsageError if there are only others."""
    for name, count in Counter(row["kind"] for row in rows if row["kind"] not in kinds).items():
        told = f"{count} tasks are of kind {name!r}, which is not known: add [kinds.{name}] to pplug.toml to score them"
        if not any(row["kind"] in kinds for row in rows):
            raise UsageError(told)
        logger.warning(told)
    return [row for row in rows if row["kind"] in kinds]


def own_answers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Arms]:
    """What was written to `outputs`, by kind; a task without an answer counts as wrong."""
    arms: dict[str, Arms] = {}
    for row in rows:
        scored = Scored.of(row["user_id"], row["output"], row["reference"], row["choices"])
        arms.setdefault(row["kind"], {"own": []})["own"].append(scored)
    return arms


def controls_of(
    warehouse: Warehouse,
    ds: date,
    plugs: Sequence[Path],
    config: GenerateConfig,
    kinds: Mapping[str, Kind],
    scored: Sequence[Mapping[str, Any]],
    progress: Progress,
) -> dict[str, dict[str, Arm]]:
    """The control arms of every kind that a plug answers."""
    models = load_models(config)
    loaded = load_plugs(plugs, models)
    found: dict[str, dict[str, Arm]] = {}
    with connect(warehouse) as db:
        for kind, plug in loaded.items():
            mine = [row for row in scored if row["kind"] == kind]
            if not mine:
                continue
            with_texts = bool(plug.plug.config.turns)
            reader = CaseReader(db, ds, kinds[kind], models.encoder, mine, with_texts=with_texts)
            context = BaselineContext(kinds[kind], models.llm, {OWN_PLUG: TrainedPlug(plug.plug, None)})
            methods = {arm: METHODS[arm].build(context) for arm in CONTROLS if arm != "other" or reader.has_others}
            found[kind] = answer_arms(reader.chunks(), methods, models.llm, reader.task_count, progress)
    return found


def labels_of(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, Kind]) -> dict[str, tuple[str, ...] | None]:
    """For each kind the labels that all of its tasks can be answered with; None where these differ."""
    names = dict.fromkeys(row["kind"] for row in rows)
    carried = {name: [row["choices"] for row in rows if row["kind"] == name] for name in names}
    return {name: fixed_labels(carried[name], kinds[name].choices) for name in names}


def arm_rows(kind: Kind, arms: Arms, labels: Sequence[str] | None) -> list[dict[str, Any]]:
    """Rows of `evaluations` of one kind, apart from the run, each with its paired difference."""
    same = {"kind": kind.name, "slice": ALL, "task_count": len(arms["own"])}
    return [{**row, **same} for row in slice_rows(kind, arms, labels)]


def scored_users(warehouse: Warehouse, ds: date) -> dict[str, int]:
    """How many users of each kind have a task with a reference."""
    with connect(warehouse) as db:
        return {row["kind"]: row["user_count"] for row in run_sql(db, "jobs/scored_users", {"ds": ds}).to_pylist()}


def plan_evaluate(
    warehouse: Warehouse, ds: date, kinds: Mapping[str, Kind], *, plugs: Sequence[Path] = (), config: GenerateConfig
) -> Plan:
    """What `evaluate_night` would answer in its control arms; nothing is written."""
    scored = of_known_kinds(scored_tasks(warehouse, ds), kinds)
    if not plugs:
        return Plan(JOB, ds, len({row["user_id"] for row in scored}), len(scored), 0, 0, 0.0)
    one_arm = plan_night(generate_job(plugs, config, kinds, force=True), warehouse, ds)
    return one_arm.times(sum(METHODS[name].draws for name in CONTROLS), JOB)
