"""Job 2: answer a night's tasks with a frozen LLM that carries each user's persona.

    tasks ────────────────────────────────────┐
    persona_vectors, history_vectors since ───┼─▶ join by user ─▶ plug ─▶ frozen LLM ─┬─▶ outputs
    histories: texts, for plugs of turns ─────┘                                       └─▶ rejects   (reason)

A shard is a range of users with at most `shard_tasks` tasks, answered together in batches of like lengths. Every task
read is in `outputs` or in `rejects`, exactly once.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import duckdb

from embedder.devices import device_facts
from embedder.encoder import return_free_memory
from embedder.errors import InputMissing, PplugError, UsageError
from embedder.fingerprints import fingerprint
from llm_jobs.kinds import Kind
from llm_jobs.prompts import Answer, Placement, Refusal, Request
from llm_jobs.turns import ITEM_LETTERS
from pipelines.answers.models import (
    AnsweringFacts,
    GenerateConfig,
    LoadedPlug,
    Models,
    answering_facts,
    load_models,
    load_plugs,
)
from pipelines.answers.outputs import JOB, Results, answer_queue, persona_source, shard_tables
from pipelines.answers.queue import EVERYBODY, QueuedTask, queued_tasks
from pipelines.nights import working
from pipelines.nights.job import Made, Night
from pipelines.nights.loading import load_once
from pipelines.nights.plans import Plan, estimated_seconds
from pipelines.nights.precisions import with_precisions
from pipelines.nights.published import NightInputs
from pipelines.nights.runners import Runner
from pipelines.nights.shards import Shard, canonical_sha256
from pipelines.personas.encoders import absolute_model, require_same
from pipelines.personas.nights import encoded_nights, newest_nights, nights_until
from pipelines.tables.sql_files import query_text
from pipelines.tables.views import asked_table, connect, run_sql
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)

SAMPLE_TASKS = 8  # tasks that are answered to estimate the speed before the first night


@dataclass(frozen=True)
class GenerateJob:
    """Answering as a `NightJob`."""

    config: GenerateConfig
    plugs: tuple[Path, ...]
    """Folders of plugs, one for each kind of task."""
    kinds: Mapping[str, Kind]
    force: bool = False
    """Answer every task anew."""
    max_persona_age: int | None = None
    """Most days between the night of the personas and that of the tasks; None for no limit."""
    is_apart: bool = False
    """Others compute: this process shall hold no weights."""

    name: ClassVar[str] = JOB
    unit: ClassVar[str] = "tasks"
    reads: ClassVar[Sequence[str]] = ("tasks", "persona_vectors", "history_vectors", "histories")
    writes: ClassVar[Sequence[str]] = ("outputs",)
    takes_parts = False

    @property
    def shard_rows(self) -> int:
        return self.config.shard_tasks

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self.config) | device_facts(self.config.device)

    def decided(self, warehouse: Warehouse) -> "GenerateJob":
        return replace(self, config=with_precisions(warehouse, self.config))

    def inputs(self, warehouse: Warehouse, ds: date) -> NightInputs:
        """Pin the night's tasks, the newest personas, the models, the plugs and the kinds.

        Raises:
            InputMissing: if the night has no tasks, or there is no such model or plug.
            PplugError: if plug, encoder and LLM do not belong together.
        """
        live = {name: warehouse.live(name, version) for name, version in warehouse.versions(self.reads).items()}
        tasks = [file for file in live.get("tasks", ()) if file.ds == ds]
        if not tasks:  # a night without any needs no models
            raise InputMissing(f"no tasks for {ds} in {warehouse}: run `pplug ingest tasks FILE --ds {ds}`")
        facts = answering_facts(self.config, self.plugs, is_apart=self.is_apart)
        encoded = encoded_nights(warehouse)
        nights = nights_until([night for night in encoded if night.ds <= ds])
        names = ("persona_vectors", "history_vectors")
        personas = {name: nights.files(live.get(name, ())) if nights else [] for name in names}
        texts = dict[str, Any]()
        if nights and facts.text_kinds:
            personas["histories"] = [file for file in live.get("histories", ()) if file.ds <= nights.last.ds]
            of_night = {"ds": ds, "last_ds": nights.last.ds, "kinds": sorted(facts.text_kinds), "letters": ITEM_LETTERS}
            with connect(warehouse, files={"tasks": tasks, "histories": personas["histories"]}) as db:
                [texts] = run_sql(db, "jobs/texts_of_night", of_night).to_pylist()
        settings = facts.settings(self.kinds)
        sha256s = {"llm_sha256": facts.llm_sha256, "settings_sha256": canonical_sha256(settings)}
        constants = {"persona_ds": nights and nights.last.ds, "plugs": dict(facts.plugs), "sha256s": sha256s}
        told = {"answering": facts, "constants": constants, "nights": nights and nights.params}
        reads = {"tasks": tasks, **personas}
        seen, based_on = {"encoded": encoded}, nights.run_ids if nights else ()
        more: Any = {"seen": seen, "based_on": based_on, "read_too": texts}
        return NightInputs(warehouse, JOB, ds, self.writes, reads, tasks, settings, told, **more)

    def require(self, inputs: NightInputs) -> None:
        """Refuse to answer without personas, with those of another encoder, or with old ones."""
        nights = newest_nights(inputs.seen["encoded"], inputs.ds, inputs.facts["answering"].encoder_sha256)
        nights.require_whole(inputs.warehouse)
        if (kinds := inputs.facts["answering"].text_kinds) and not inputs.reads["histories"]:
            told = f"{inputs.warehouse} holds no histories up to {nights.last.ds}, which {min(kinds)} is answered by"
            raise InputMissing(f"{told}: run `pplug ingest histories FILE --ds {nights.last.ds}`")
        require_young(inputs.ds, nights.last.ds, self.max_persona_age)

    def row_counts(self, db: duckdb.DuckDBPyConnection, inputs: NightInputs) -> duckdb.DuckDBPyRelation:
        return db.sql(query_text("jobs/task_counts"), params={"ds": inputs.ds})

    def load(self, facts: Mapping[str, Any]) -> tuple[Models, Mapping[str, LoadedPlug]]:
        planned: AnsweringFacts = facts["answering"]
        models = load_models(self.config)
        require_same("encoder", self.config.encoder, models.encoder.sha256, planned.encoder_sha256)
        require_same("LLM", self.config.llm, models.llm.sha256, planned.llm_sha256)
        plugs = _loaded_plugs(self.config, self.plugs, tuple(fingerprint(folder) for folder in self.plugs))
        for kind, sha256 in planned.plugs.items():
            require_same("plug", kind, plugs[kind].sha256 if kind in plugs else "none", sha256)
        return models, plugs

    def read(self, night: Night, shard: Shard, db: duckdb.DuckDBPyConnection) -> list[QueuedTask]:
        users, facts = (shard.first_user, shard.last_user), night.facts["answering"]
        return queued_tasks(db, night.ds, night.facts["nights"], users, facts.width, facts.text_kinds)

    def compute(
        self, night: Night, rows: Sequence[QueuedTask], models: tuple[Models, Mapping[str, LoadedPlug]]
    ) -> Results:
        loaded, plugs = models
        results = answer_queue(rows, plugs, self.kinds, loaded, working.count)
        return_free_memory()  # shards of many shapes leave holes
        return results

    def shape(self, night: Night, results: Results) -> Made:
        tables = shard_tables(results, night.run_id, night.facts["constants"])
        counts = (tables["outputs"][name].to_pylist() for name in ("prompt_tokens", "output_tokens"))
        answers = [result for _, result in results if isinstance(result, Answer)]
        counted = {
            "task_count": len(results),
            "tied_count": sum(answer.tie_count > 0 for answer in answers),
            "shortened_count": sum(answer.is_shortened for answer in answers),
            "without_turns_count": sum(is_without_turns(*result, night.facts["answering"]) for result in results),
        }
        return Made(tables, tables["outputs"].num_rows, sum(map(sum, counts)), counted)

    def warn(self, inputs: NightInputs, counts: Mapping[str, int]) -> None:
        if shortened := counts["shortened_count"]:
            told = (
                "%d of %d prompts lost their middle to fit the %d tokens that the LLM reads (is_shortened in outputs)"
            )
            facts: AnsweringFacts = inputs.facts["answering"]
            logger.warning(told, shortened, counts["task_count"], facts.context_length)
        if count := counts.get("without_turns_count", 0):  # shards of a run before 2026-11-29 do not say
            told = (
                "%d of %d tasks were answered without an earlier turn, though their users have a persona: no item of "
                "the kind had a text and an output that fit (persona_source is default in outputs)"
            )
            logger.warning(told, count, counts["task_count"])

    def estimate(self, inputs: NightInputs, shards: Sequence[Shard], planned: set[int] | None = None) -> Plan:
        """Say what a night would cost; no night answers the tasks of another."""
        models = load_models(self.config)
        loaded = load_plugs(self.plugs, models)
        with connect(inputs.warehouse, files=inputs.reads) as db:
            tasks = run_sql(db, "jobs/tasks_of_users", {"ds": inputs.ds, **EVERYBODY}).to_pylist()
        answered = asked_table(inputs.warehouse, "outputs", "jobs/answer_lengths").to_pylist()
        lengths = {row["kind"]: row["output_tokens"] for row in answered}
        covered = [task for task in tasks if task["kind"] in loaded and task["kind"] in self.kinds]
        sizes = [task_tokens(models, loaded[task["kind"]], self.kinds[task["kind"]], task, lengths) for task in covered]
        sample = [Request(task["input"], None, task["choices"] and tuple(task["choices"]), 8) for task in covered]
        answer = partial(models.llm.answer, sample[:SAMPLE_TASKS], Placement.AFTER)
        sampled = (answer, sum(sizes[:SAMPLE_TASKS]))
        seconds = estimated_seconds(inputs.warehouse, JOB, len(covered), sum(sizes), *sampled)
        users, texts = {task["user_id"] for task in covered}, {task["input"] for task in covered}
        counts = (len(users), len(covered), len(texts), sum(sizes))
        return Plan(JOB, inputs.ds, *counts, seconds, inputs.published()[0])


def generate_job(
    plugs: Sequence[Path],
    config: GenerateConfig,
    kinds: Mapping[str, Kind],
    *,
    force: bool = False,
    max_persona_age: int | None = None,
    runner: Runner | None = None,
) -> GenerateJob:
    """Make the job, with models and plugs that workers in other folders find, and their share of the memory.

    Raises:
        UsageError: if there is no plug.
    """
    if not plugs:
        raise UsageError("no plug to answer with: name one with --plug DIR")
    runner = runner or Runner()
    memory = config.memory and config.memory // runner.workers
    named = replace(config, encoder=absolute_model(config.encoder), llm=absolute_model(config.llm), memory=memory)
    folders = tuple(folder.expanduser().resolve() for folder in plugs)
    return GenerateJob(named, folders, kinds, force, max_persona_age, runner.is_elsewhere)


@load_once
def _loaded_plugs(
    config: GenerateConfig, folders: tuple[Path, ...], sha256s: tuple[str, ...]
) -> Mapping[str, LoadedPlug]:
    return load_plugs(folders, load_models(config))


def is_without_turns(task: QueuedTask, answer: Answer | Refusal, facts: AnsweringFacts) -> bool:
    """Whether a plug of earlier turns found none, though the user has a persona."""
    if task.kind not in facts.text_kinds or isinstance(answer, Refusal):
        return False
    return bool(len(task.history.vectors)) and persona_source(task, answer) == "default"


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


def task_tokens(
    models: Models, loaded: LoadedPlug, kind: Kind, task: Mapping[str, Any], lengths: Mapping[str, float]
) -> int:
    """Tokens of a task as its answer will count them: prompt, soft prompt, and the mean length of answers so far."""
    config, choices = loaded.plug.config, task["choices"] and tuple(task["choices"])
    if config.labels and not config.values_width:
        return 0
    request = Request(task["input"], None, choices, kind.max_new_tokens)
    [prepared] = models.llm.reader.prepare([request], Placement.AFTER)
    if isinstance(prepared, Refusal):
        return 0
    unseen = sum(map(len, prepared.choices)) / len(prepared.choices) if prepared.choices else kind.max_new_tokens
    answer = 0 if config.labels else config.soft_count + round(lengths.get(kind.name, unseen))
    return (1 + config.turns) * (prepared.prompt_tokens + answer)  # a turn is about as long as the task
