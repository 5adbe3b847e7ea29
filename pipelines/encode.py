"""Job 1: encode every user's full history into persona vectors.

    histories ─▶ read a range of users ─▶ encode ─▶ group by user ─▶ persona_vectors
    history_vectors (earlier nights) ─┘      │  └────────────────▶ history_vectors   (items encoded for the first time)
                                             └──────────────────▶ rejects           (reason)

A shard is a range of users with at most `shard_items` items, fewer where they are long. Every item
read is in one user's persona or in `rejects`, exactly once.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from embedder.encoder import TextEncoder
from embedder.errors import PplugError
from embedder.precision import Dtype
from llm_jobs.kinds import Kind
from pipelines.nights.job import Made, Night
from pipelines.nights.night import plan_night, run_night
from pipelines.nights.plans import Plan, speed_of
from pipelines.nights.precisions import with_precisions
from pipelines.nights.published import NightInputs
from pipelines.nights.runners import Runner
from pipelines.nights.runs import Progress, RunRecord, no_progress
from pipelines.nights.shards import Shard
from pipelines.personas.encoders import absolute_model, encoder_facts, load_encoder, require_same
from pipelines.personas.items import JOB, Encoded, encode_items, pending_items, read_items, shard_tables
from pipelines.tables.views import connect, query_text, run_sql
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)

READS = ("histories", "history_vectors")
"""Tables that the vectors are made from."""

WRITES = ("history_vectors", "persona_vectors")
"""Tables of which a night is replaced."""

SAMPLE_TEXTS = 64
"""Texts that are encoded to estimate the speed before the first night."""


@dataclass(frozen=True)
class EncodeConfig:
    """How histories become persona vectors."""

    encoder: str = "minilm"
    """Alias, folder or hub id of the text encoder."""
    dtype: Dtype = "auto"
    """float32, bfloat16 or auto, the precision the encoder computes in (see nights/precisions.py)."""
    max_vectors: int = 128
    """Most vectors that stand for one user."""
    shard_items: int = 20_000
    """Most items of a shard: a unit of work, of memory and of resuming."""
    cache: Path | None = None
    """Where exported models are kept; the user's cache folder unless given."""


@dataclass(frozen=True)
class EncodeJob:
    """Encoding as a `NightJob`."""

    config: EncodeConfig
    kinds: Mapping[str, Kind]
    force: bool = False
    """Encode every item anew instead of taking over vectors of earlier runs."""
    rebuild: bool = False
    """Allow another encoder than that of the nights before."""
    is_apart: bool = False
    """Others compute: this process shall hold no weights."""

    name = JOB
    unit = "items"
    reads = READS
    writes = WRITES

    @property
    def shard_rows(self) -> int:
        """Most items of a shard."""
        return self.config.shard_items

    @property
    def settings(self) -> Mapping[str, Any]:
        """The config, for the run record."""
        return asdict(self.config)

    def decided(self, warehouse: Warehouse) -> "EncodeJob":
        """Decide the encoder's precision."""
        return replace(self, config=with_precisions(warehouse, self.config))

    def inputs(self, warehouse: Warehouse, ds: date) -> NightInputs:
        """Pin the items, the encoder, how each kind reads, and how many vectors stay.

        Raises:
            InputMissing: if there is no such encoder.
        """
        encoder = encoder_facts(self.config, is_apart=self.is_apart)
        live = {name: warehouse.live(name, version) for name, version in warehouse.versions(READS).items()}
        items = [file for file in live.get("histories", ()) if file.ds <= ds]
        with connect(warehouse, files={"histories": items}) as db:
            found = run_sql(db, "jobs/item_kinds", {"ds": ds})["kind"].to_pylist()
            later = run_sql(db, "jobs/later_items", {"ds": ds})["item_count"][0].as_py()
        settings = {
            "encoder_sha256": encoder.sha256,
            "kernel": encoder.kernel,
            "max_vectors": self.config.max_vectors,
            "kinds": {name: self.kinds[name].sha256 if name in self.kinds else None for name in found},
        }
        reads = live | {"histories": items}
        facts = {"encoder_sha256": encoder.sha256}
        notes = {"later_item_count": later} if later else {}
        return NightInputs(warehouse, JOB, ds, WRITES, reads, items, settings, facts, notes)

    def require(self, inputs: NightInputs) -> None:
        """Refuse to change the encoder unasked, and tell of items that wait for their night."""
        if later := inputs.notes.get("later_item_count"):
            logger.warning("%d items are dated after %s and wait for their night", later, inputs.ds)
        if not self.rebuild:
            require_encoder(inputs.warehouse, inputs.ds, inputs.facts["encoder_sha256"])

    def row_counts(self, db: duckdb.DuckDBPyConnection, ds: date) -> duckdb.DuckDBPyRelation:
        """Count each user's items."""
        return db.sql(query_text("jobs/user_sizes"), params={"ds": ds})

    def load(self, facts: Mapping[str, Any]) -> TextEncoder:
        """Load the encoder that the night was planned with."""
        encoder = load_encoder(self.config)
        require_same("encoder", self.config.encoder, encoder.sha256, facts["encoder_sha256"])
        return encoder

    def read(self, night: Night, shard: Shard, db: duckdb.DuckDBPyConnection) -> pa.Table:
        """Read the items, each with the vector that an earlier run made of it."""
        return read_items(db, shard, night.ds, night.facts["encoder_sha256"])

    def compute(self, night: Night, rows: pa.Table, models: TextEncoder) -> Encoded:
        """Encode the items that have no vector yet."""
        return encode_items(pending_items(rows, night.ds, self.kinds, force=self.force), models)

    def shape(self, night: Night, results: Encoded) -> Made:
        """Make personas, and vectors of new items."""
        tables = shard_tables(results, night.run_id, self.config.max_vectors, night.facts["encoder_sha256"])
        return Made(tables, results.rows.num_rows, results.tokens)

    def warn(self, inputs: NightInputs, counts: Mapping[str, int]) -> None:
        """Tell nothing: what is refused is in `rejects`."""

    def estimate(self, inputs: NightInputs, shards: Sequence[Shard], planned: set[int] | None = None) -> Plan:
        """Say what a night would cost.

        Args:
            inputs: of the night.
            shards: all of it.
            planned: hashes of the items that nights before this one will have encoded by then; its own are added.
        """
        self.require(inputs)
        encoder = load_encoder(self.config)
        users = items = texts = tokens = 0
        sample: list[str] = []
        for shard in shards:
            with connect(inputs.warehouse, files=shard.files) as db:
                rows = read_items(db, shard, inputs.ds, encoder.sha256)
            pending = pending_items(rows, inputs.ds, self.kinds, force=self.force)
            todo = pending.todo_texts if planned is None else pending.unplanned_texts(planned)
            todo = list(dict.fromkeys(todo))
            users += len(set(pending.rows["user_id"].to_pylist()))
            items, texts = items + len(pending.texts), texts + len(todo)
            tokens += sum(encoder.token_counts(todo))
            sample = sample or todo[:SAMPLE_TEXTS]
        speed = speed_of(inputs.warehouse, JOB, lambda: encoder.encode(sample), sum(encoder.token_counts(sample)))
        return Plan(JOB, inputs.ds, users, items, texts, tokens, speed.seconds(items, tokens), inputs.state())


def encode_job(
    config: EncodeConfig,
    kinds: Mapping[str, Kind],
    *,
    force: bool = False,
    rebuild: bool = False,
    runner: Runner | None = None,
) -> EncodeJob:
    """Make the job, with a model that workers in other folders find."""
    is_apart = runner is not None and runner.is_elsewhere
    return EncodeJob(replace(config, encoder=absolute_model(config.encoder)), kinds, force, rebuild, is_apart)


def require_encoder(warehouse: Warehouse, ds: date, encoder_sha256: str) -> None:
    """Refuse to change the encoder unasked: no earlier vector could be used again, and no plug trained for them.

    Raises:
        PplugError: if the newest personas up to the night came from another encoder.
    """
    there = [file for file in warehouse.live("persona_vectors") if file.ds <= ds]
    newest = [file for file in there if file.ds == max(file.ds for file in there)]
    with connect(warehouse, files={"persona_vectors": newest}) as db:
        found = run_sql(db, "jobs/newest_personas", {"ds": ds}).to_pylist()
    if found and found[0]["encoder_sha256"] != encoder_sha256:
        persona_ds, built_with = found[0]["persona_ds"], found[0]["encoder_sha256"]
        raise PplugError(
            f"persona_vectors ds={persona_ds} was built with encoder {built_with[:8]}, but this one is "
            f"{encoder_sha256[:8]}: name that encoder and its precision (--encoder, --dtype), or run "
            f"`pplug encode --ds {ds} --rebuild` to encode every item anew with this one"
        )


def encode_night(
    warehouse: Warehouse,
    ds: date,
    config: EncodeConfig,
    kinds: Mapping[str, Kind],
    *,
    force: bool = False,
    rebuild: bool = False,
    progress: Progress = no_progress,
    runner: Runner | None = None,
) -> RunRecord:
    """Write the night's `persona_vectors`, and `history_vectors` of the items no earlier night holds.

    A night that is published already from the same inputs and settings is left as it is.

    Args:
        warehouse: read and written.
        ds: what was ingested by this night and posted by the end of this day is encoded.
        config: what determines the vectors.
        kinds: how an item of each kind becomes text.
        force: encode every item anew instead of taking over vectors of earlier runs.
        rebuild: allow another encoder than that of the nights before.
        progress: told of the items done.
        runner: who computes; this process unless given.

    Raises:
        AlreadyRunning: if another process encodes that night.
        InputMissing: if there are no histories as of that night, or there is no such encoder.
        PplugError: if the encoder is another one and `rebuild` is not set.
    """
    job = encode_job(config, kinds, force=force, rebuild=rebuild, runner=runner)
    return run_night(job, warehouse, ds, progress, runner)


def plan_encode(
    warehouse: Warehouse,
    ds: date,
    config: EncodeConfig,
    kinds: Mapping[str, Kind],
    *,
    force: bool = False,
    rebuild: bool = False,
) -> Plan:
    """What `encode_night` would do; nothing is written."""
    return plan_night(encode_job(config, kinds, force=force, rebuild=rebuild), warehouse, ds)
