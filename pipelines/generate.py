"""Job 2: answer a night's tasks with a frozen LLM that carries each user's persona.

    tasks ──────────▶ join by user ─▶ plug ─▶ frozen LLM ─┬─▶ outputs
    persona_vectors ──┘                                   └─▶ rejects   (reason)

A shard is a range of users with at most `shard_tasks` tasks, answered together in batches of like lengths. Every task
read is in `outputs` or in `rejects`, exactly once.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics

from embedder.encoder import return_free_memory
from embedder.errors import InputMissing, PplugError
from llm_jobs.kinds import Kind
from llm_jobs.prompts import Placement, PromptRefused, Request
from llm_jobs.tasks import Answered
from pipelines.answers.models import GenerateConfig, LoadedPlug, Models, load_models, load_plugs
from pipelines.answers.outputs import JOB, Answers, Queued, answer_queue, shard_tables
from pipelines.answers.queue import newest_personas, queued_tasks
from pipelines.nights.jobs import Night, is_done, planned_night, publish_shards, run_shards
from pipelines.nights.plans import Plan, speed_of
from pipelines.nights.precisions import with_precisions
from pipelines.nights.published import DONE, NightInputs
from pipelines.nights.runs import Excludes, Progress, RunRecord, no_progress, recorded_run
from pipelines.nights.shards import Receipt, Shard, canonical_sha256, cut_shards
from pipelines.tables.parquet import night_of
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)

READS = ("tasks", "persona_vectors")
"""Tables that the answers are made from."""

LABEL_TABLES = ("histories", "history_vectors")
"""Tables that the labels behind the personas are looked up in; what changes there after the night of the personas makes
no night of answers stale."""

WRITES = ("outputs",)
"""Tables of which a night is replaced."""

COUNTED = ("tied_count", "shortened_count")
"""What of the answers is counted in the record's `config`."""

SAMPLE_TASKS = 8
"""Tasks that are answered to estimate the speed before the first night."""


class ReadQueue(beam.DoFn):
    """Shard in, its tasks joined with their users' personas out."""

    def __init__(self, night: Night, persona_ds: date, width: int) -> None:
        self._night, self._persona_ds, self._width = night, persona_ds, width

    def process(self, shard: Shard) -> Iterator[Queued]:
        users = shard.first_user, shard.last_user
        with connect(Warehouse(self._night.root), self._night.versions) as db:
            yield Queued(shard, queued_tasks(db, self._night.ds, self._persona_ds, users, self._width))


class AnswerTasks(beam.DoFn):
    """A shard's tasks in, the same tasks with their answers out."""

    def __init__(self, night: Night, config: GenerateConfig, folders: Sequence[Path]) -> None:
        self._night, self._config, self._folders = night, config, folders
        self._answered = Metrics.counter(JOB, "tasks")

    def setup(self) -> None:
        self._models = load_models(self._config)
        self._plugs = load_plugs(self._folders, self._models)

    def process(self, queued: Queued) -> Iterator[Answers]:
        start = time.perf_counter()
        results = answer_queue(queued.tasks, self._plugs, self._night.kinds, self._models)
        self._answered.inc(len(results))
        return_free_memory()  # shards of many shapes leave holes
        yield Answers(queued.shard, results, time.perf_counter() - start)


class WriteAnswers(beam.DoFn):
    """A shard's answers in, its finished files on disk; only the shard's number goes on."""

    def __init__(self, night: Night, constants: Mapping[str, Any]) -> None:
        self._night, self._constants = night, constants

    def process(self, answers: Answers) -> Iterator[int]:
        tables = shard_tables(answers, self._night, self._constants)
        kept, rejected = tables["outputs"].num_rows, tables["rejects"].num_rows
        counts = (tables["outputs"][name].to_pylist() for name in ("prompt_tokens", "output_tokens"))
        tokens = sum(map(sum, counts))
        told = [result.answer for _, result in answers.results if isinstance(result, Answered)]
        receipt = Receipt(
            answers.shard.index,
            kept + rejected,
            kept,
            rejected,
            tokens,
            answers.seconds,
            tied_count=sum(answer.tie_count > 0 for answer in told),
            shortened_count=sum(answer.is_shortened for answer in told),
        )
        self._night.folder.write(answers.shard, tables, receipt)
        yield answers.shard.index


class GenerateNight(beam.PTransform):
    """Shards in, their finished files on disk."""

    def __init__(
        self, night: Night, config: GenerateConfig, folders: Sequence[Path], width: int, constants: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self._night, self._config, self._folders = night, config, folders
        self._width, self._constants = width, constants

    def expand(self, shards: beam.PCollection[Shard]) -> Any:
        return (
            shards
            | "Join" >> beam.ParDo(ReadQueue(self._night, self._constants["persona_ds"], self._width))
            | "Answer" >> beam.ParDo(AnswerTasks(self._night, self._config, self._folders))
            | "Write" >> beam.ParDo(WriteAnswers(self._night, self._constants))
        )


def task_shards(warehouse: Warehouse, versions: Mapping[str, int], ds: date, shard_tasks: int) -> list[Shard]:
    """The users with tasks of the night, cut into shards.

    Raises:
        InputMissing: if nothing is queued for that night.
    """
    with connect(warehouse, versions) as db:
        counts = run_sql(db, "jobs/task_counts", {"ds": ds})
    if not counts.num_rows:
        raise InputMissing(f"no tasks for {ds} in {warehouse.root}: run `pplug ingest tasks FILE --ds {ds}`")
    return cut_shards(zip(*(column.to_pylist() for column in counts.columns), strict=True), shard_tasks)


def answer_settings(models: Models, kinds: Mapping[str, Kind], plugs: Mapping[str, LoadedPlug]) -> dict[str, Any]:
    """Everything besides the tasks and the personas that an answer depends on.

    Greedy decoding is not named, so that nights from before there were beams are still done; nor is the memory where it
    changes no answer.
    """
    beams = {} if models.llm.num_beams == 1 else {"num_beams": models.llm.num_beams}
    memory = {} if models.llm.kv_memory is None else {"kv_memory": models.llm.kv_memory}
    return (
        beams
        | memory
        | {
            "encoder_sha256": models.encoder.sha256,
            "llm_sha256": models.llm.sha256,
            "llm_kernel": models.llm.kernel,
            "plugs": {kind: loaded.sha256 for kind, loaded in plugs.items()},
            "kinds": {
                name: [kinds[name].sha256, kinds[name].max_new_tokens] for name in sorted(plugs.keys() & kinds.keys())
            },
        }
    )


def generate_inputs(
    warehouse: Warehouse,
    ds: date,
    models: Models,
    plugs: Mapping[str, LoadedPlug],
    kinds: Mapping[str, Kind],
    versions: Mapping[str, int] | None = None,
) -> NightInputs:
    """What a night's answers depend on: its tasks, the newest personas, the models, the plugs and the kinds."""
    versions = warehouse.versions((*READS, *LABEL_TABLES)) if versions is None else versions
    there = {name: warehouse.files(name, version) for name, version in versions.items()}
    nights = sorted({night_of(path) for path in there.get("persona_vectors", ()) if night_of(path) <= ds})
    read = {"tasks": ds, "persona_vectors": nights[-1] if nights else None}
    files = [path for name, night in read.items() for path in there.get(name, ()) if night_of(path) == night]
    settings = answer_settings(models, kinds, plugs)
    return NightInputs(warehouse, JOB, ds, WRITES, versions, files, settings, kinds)


def require_young(ds: date, persona_ds: date, max_persona_age: int | None) -> None:
    """Warn of personas from another night than that of the tasks, and refuse those beyond a limit.

    Raises:
        PplugError: if they are older than `max_persona_age` days.
    """
    age = (ds - persona_ds).days
    told = f"the newest persona_vectors, ds={persona_ds}, are {age} days older than the tasks"
    if max_persona_age is not None and age > max_persona_age:
        raise PplugError(f"{told}, more than --max-persona-age {max_persona_age}: run `pplug encode --ds {ds}`")
    if age:
        logger.warning("%s of %s: `pplug encode --ds %s` makes new ones", told, ds, ds)


def generate_night(
    warehouse: Warehouse,
    ds: date,
    plugs: Sequence[Path],
    config: GenerateConfig,
    kinds: Mapping[str, Kind],
    *,
    force: bool = False,
    max_persona_age: int | None = None,
    progress: Progress = no_progress,
) -> RunRecord:
    """Write the night's `outputs`.

    A night that is published already from the same inputs and settings is left as it is.

    Args:
        warehouse: read and written.
        ds: the tasks of this night are answered.
        plugs: folders of plugs, one for each kind of task.
        config: which models answer.
        kinds: how a task of each kind is read.
        force: answer every task anew.
        max_persona_age: most days between the night of the personas and that of the tasks; None for no limit.
        progress: told of the tasks done.

    Raises:
        AlreadyRunning: if another process answers that night.
        InputMissing: if the night has no tasks, or no night up to it has personas.
        PplugError: if plug, encoder and LLM do not belong together, or the personas are too old.
    """
    with recorded_run(warehouse, JOB, ds, asdict(config), Excludes.SAME_NIGHT) as record:
        versions = warehouse.versions((*READS, *LABEL_TABLES))
        shards = task_shards(warehouse, versions, ds, config.shard_tasks)  # a night without any needs no models
        config = with_precisions(warehouse, config, record)
        models = load_models(config)
        inputs = generate_inputs(warehouse, ds, models, load_plugs(plugs, models), kinds, versions)
        with connect(warehouse, versions) as db:
            persona_ds = newest_personas(db, ds, models.encoder.sha256)
        require_young(ds, persona_ds, max_persona_age)
        if is_done(inputs, record, force=force):
            return record
        night = planned_night(inputs, record.run_id, config.shard_tasks, force=force)
        sha256s = {"llm_sha256": models.llm.sha256, "settings_sha256": canonical_sha256(inputs.settings)}
        constants = {"persona_ds": persona_ds, "plugs": inputs.settings["plugs"], "sha256s": sha256s}
        transform = GenerateNight(night, config, plugs, models.encoder.width, constants)
        run_shards(shards, transform, night.folder, "tasks", progress, record)
        receipts = publish_shards(inputs, night, shards, record)
        counts = {name: sum(getattr(receipt, name) for receipt in receipts) for name in COUNTED}
        record.config = {**record.config, **counts}
        if shortened := counts["shortened_count"]:
            told = (
                "%d of %d prompts lost their middle to fit the %d tokens that the LLM reads (is_shortened in outputs)"
            )
            logger.warning(told, shortened, record.rows_in, models.llm.context_length)
    return record


def plan_generate(
    warehouse: Warehouse,
    ds: date,
    plugs: Sequence[Path],
    config: GenerateConfig,
    kinds: Mapping[str, Kind],
    *,
    force: bool = False,
) -> Plan:
    """What `generate_night` would do; nothing is written."""
    models = load_models(with_precisions(warehouse, config))
    loaded = load_plugs(plugs, models)
    state = generate_inputs(warehouse, ds, models, loaded, kinds).state()
    if state == DONE and not force:
        return Plan(JOB, ds, state=state)
    with connect(warehouse) as db:
        tasks = run_sql(db, "jobs/tasks_of_night", {"ds": ds}).to_pylist()
        lengths = {row["kind"]: row["output_tokens"] for row in run_sql(db, "jobs/answer_lengths").to_pylist()}
    covered = [task for task in tasks if task["kind"] in loaded and task["kind"] in kinds]
    sizes = [task_tokens(models, loaded[task["kind"]], kinds[task["kind"]], task, lengths) for task in covered]
    sample = [Request(task["input"], None, task["choices"] and tuple(task["choices"]), 8) for task in covered]
    speed = speed_of(
        warehouse,
        JOB,
        lambda: models.llm.answer(sample[:SAMPLE_TASKS], Placement.AFTER),
        sum(sizes[:SAMPLE_TASKS]),
    )
    users, texts = {task["user_id"] for task in covered}, {task["input"] for task in covered}
    seconds = speed.seconds(len(covered), sum(sizes))
    return Plan(JOB, ds, len(users), len(covered), len(texts), sum(sizes), seconds, state)


def task_tokens(
    models: Models, loaded: LoadedPlug, kind: Kind, task: Mapping[str, Any], lengths: Mapping[str, float]
) -> int:
    """Tokens of a task as its answer will count them: prompt, soft prompt, and the mean length of answers so far."""
    if loaded.plug.config.labels:
        return prompt_tokens(models, task["input"]) if loaded.plug.config.values_width else 0
    choices = [len(models.llm.answer_ids(choice)) for choice in task["choices"] or ()]
    unseen = sum(choices) / len(choices) if choices else kind.max_new_tokens
    soft = loaded.plug.config.soft_count
    return prompt_tokens(models, task["input"]) + soft + round(lengths.get(kind.name, unseen))


def prompt_tokens(models: Models, prompt: str) -> int:
    """Tokens of a prompt with its header and footer; 0 for one that cannot be put to the LLM."""
    try:
        parts = models.llm.parts(prompt, Placement.AFTER, reserve=0)
    except PromptRefused:
        return 0
    return len(parts.before) + len(parts.after)
