"""Job 1: encode every user's full history into persona vectors.

    histories ─▶ read a range of users ─▶ encode ─▶ group by user ─▶ persona_vectors
    history_vectors (earlier nights) ─┘      │  └────────────────▶ history_vectors   (items encoded for the first time)
                                             └──────────────────▶ rejects           (reason)

A shard is a range of users with at most `shard_items` items, fewer where they are long. It is read, encoded and
summarised in one fused step, so that neither text nor vectors cross a shuffle; the driver publishes the finished
shards. Every item read is in one user's persona or in `rejects`, exactly once.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics

from embedder.errors import InputMissing, PplugError
from embedder.precision import Dtype
from llm_jobs.kinds import Kind
from pipelines.nights.encoders import load_encoder
from pipelines.nights.jobs import Night, is_done, planned_night, publish_shards, run_shards
from pipelines.nights.plans import Plan, speed_of
from pipelines.nights.precisions import with_precisions
from pipelines.nights.published import DONE, NightInputs
from pipelines.nights.runs import Excludes, Progress, RunRecord, no_progress, recorded_run
from pipelines.nights.shards import Receipt, Shard, cut_shards
from pipelines.personas.items import JOB, Encoded, Items, encode_items, pending_items, read_items, shard_tables
from pipelines.tables.parquet import night_of
from pipelines.tables.views import connect, run_sql
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


class ReadItems(beam.DoFn):
    """Shard in, its items out."""

    def __init__(self, night: Night, encoder_sha256: str) -> None:
        self._night, self._encoder_sha256 = night, encoder_sha256

    def process(self, shard: Shard) -> Iterator[Items]:
        yield read_items(shard, self._night, self._encoder_sha256)


class EncodeItems(beam.DoFn):
    """A shard's items in, the same items with their vectors out."""

    def __init__(self, night: Night, config: EncodeConfig, *, force: bool) -> None:
        self._night, self._config, self._force = night, config, force
        self._tokens = Metrics.counter(JOB, "tokens")

    def setup(self) -> None:
        self._encoder = load_encoder(self._config)

    def process(self, items: Items) -> Iterator[Encoded]:
        encoded = encode_items(items, self._night, self._encoder, force=self._force)
        self._tokens.inc(encoded.tokens)
        yield encoded


class WriteShard(beam.DoFn):
    """A shard's vectors in, its finished files on disk; only the shard's number goes on."""

    def __init__(self, night: Night, max_vectors: int, encoder_sha256: str) -> None:
        self._night, self._max_vectors, self._encoder_sha256 = night, max_vectors, encoder_sha256

    def process(self, encoded: Encoded) -> Iterator[int]:
        tables = shard_tables(encoded, self._night, self._max_vectors, self._encoder_sha256)
        rejected, kept = encoded.rejects.num_rows, encoded.rows.num_rows
        receipt = Receipt(encoded.shard.index, kept + rejected, kept, rejected, encoded.tokens, encoded.seconds)
        self._night.folder.write(encoded.shard, tables, receipt)
        yield encoded.shard.index


class EncodeNight(beam.PTransform):
    """Shards in, their finished files on disk."""

    def __init__(self, night: Night, config: EncodeConfig, encoder_sha256: str, *, force: bool) -> None:
        super().__init__()
        self._night, self._config, self._encoder_sha256, self._force = night, config, encoder_sha256, force

    def expand(self, shards: beam.PCollection[Shard]) -> Any:
        return (
            shards
            | "Read" >> beam.ParDo(ReadItems(self._night, self._encoder_sha256))
            | "Encode" >> beam.ParDo(EncodeItems(self._night, self._config, force=self._force))
            | "Write" >> beam.ParDo(WriteShard(self._night, self._config.max_vectors, self._encoder_sha256))
        )


def encode_inputs(warehouse: Warehouse, ds: date, config: EncodeConfig, kinds: Mapping[str, Kind]) -> NightInputs:
    """What a night's personas depend on: the items, the encoder, how each kind reads, and how many vectors stay."""
    versions = warehouse.versions(READS)
    items = warehouse.files("histories", versions["histories"]) if "histories" in versions else []
    with connect(warehouse, versions) as db:
        found = run_sql(db, "jobs/item_kinds", {"ds": ds})["kind"].to_pylist()
    encoder = load_encoder(config)
    settings = {
        "encoder_sha256": encoder.sha256,
        "kernel": encoder.kernel,
        "max_vectors": config.max_vectors,
        "kinds": {name: kinds[name].sha256 if name in kinds else None for name in found},
    }
    files = [path for path in items if night_of(path) <= ds]
    return NightInputs(warehouse, JOB, ds, WRITES, versions, files, settings, kinds)


def user_shards(inputs: NightInputs, shard_items: int) -> list[Shard]:
    """The users with items as of the night, cut into shards; long items count more than once.

    Raises:
        InputMissing: if no history is there as of that night.
    """
    ds, root = inputs.ds, inputs.warehouse.root
    with connect(inputs.warehouse, inputs.versions) as db:
        sizes = run_sql(db, "jobs/user_sizes", {"ds": ds})
    if not sizes.num_rows:
        raise InputMissing(f"no histories as of {ds} in {root}: run `pplug ingest histories FILE --ds {ds}`")
    users, counts, weights = (sizes[name].to_pylist() for name in ("user_id", "item_count", "weight"))
    left = iter(zip(users, counts, strict=True))
    return [
        replace(shard, row_count=sum(count for _, count in _until(left, shard.last_user)))
        for shard in cut_shards(zip(users, weights, strict=True), shard_items)
    ]


def _until(users: Iterator[tuple[str, int]], last: str) -> Iterator[tuple[str, int]]:
    """The next users up to this one."""
    for user, count in users:
        yield user, count
        if user == last:
            return


def note_later_items(inputs: NightInputs, record: RunRecord) -> None:
    """Say how many items are dated after the night; they wait for theirs."""
    with connect(inputs.warehouse, inputs.versions) as db:
        count = run_sql(db, "jobs/later_items", {"ds": inputs.ds})["item_count"][0].as_py()
    if count:
        record.config = {**record.config, "later_item_count": count}
        logger.warning("%d items are dated after %s and wait for their night", count, inputs.ds)


def require_encoder(warehouse: Warehouse, ds: date, encoder_sha256: str) -> None:
    """Refuse to change the encoder unasked: no earlier vector could be used again, and no plug trained for them.

    Raises:
        PplugError: if the newest personas up to the night came from another encoder.
    """
    with connect(warehouse) as db:
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

    Raises:
        AlreadyRunning: if another process encodes that night.
        InputMissing: if there are no histories as of that night, or there is no such encoder.
        PplugError: if the encoder is another one and `rebuild` is not set.
    """
    with recorded_run(warehouse, JOB, ds, asdict(config), Excludes.SAME_NIGHT) as record:
        config = with_precisions(warehouse, config, record)
        encoder = load_encoder(config)
        if not rebuild:
            require_encoder(warehouse, ds, encoder.sha256)
        inputs = encode_inputs(warehouse, ds, config, kinds)
        if is_done(inputs, record, force=force):
            return record
        shards = user_shards(inputs, config.shard_items)
        note_later_items(inputs, record)
        night = planned_night(inputs, record.run_id, config.shard_items, force=force)
        transform = EncodeNight(night, config, encoder.sha256, force=force)
        run_shards(shards, transform, night.folder, "items", progress, record)
        publish_shards(inputs, night, shards, record)
    return record


def plan_encode(
    warehouse: Warehouse,
    ds: date,
    config: EncodeConfig,
    kinds: Mapping[str, Kind],
    *,
    force: bool = False,
    rebuild: bool = False,
    planned: set[int] | None = None,
) -> Plan:
    """What `encode_night` would do; nothing is written.

    Args:
        warehouse: read.
        ds: the night.
        config: as for `encode_night`.
        kinds: as for `encode_night`.
        force: as for `encode_night`.
        rebuild: as for `encode_night`.
        planned: hashes of the items that nights before this one will have encoded by then; this night's are added.
    """
    config = with_precisions(warehouse, config)
    encoder = load_encoder(config)
    if not rebuild:
        require_encoder(warehouse, ds, encoder.sha256)
    inputs = encode_inputs(warehouse, ds, config, kinds)
    state = inputs.state()
    if state == DONE and not force:
        return Plan(JOB, ds, state=state)
    night = planned_night(inputs, "", config.shard_items)
    users = items = texts = tokens = 0
    sample: list[str] = []
    for shard in user_shards(inputs, config.shard_items):
        pending = pending_items(read_items(shard, night, encoder.sha256), night, force=force)
        todo = pending.todo_texts if planned is None else pending.unplanned_texts(planned)
        todo = list(dict.fromkeys(todo))
        users += len(set(pending.rows["user_id"].to_pylist()))
        items, texts, tokens = items + len(pending.texts), texts + len(todo), tokens + sum(encoder.token_counts(todo))
        sample = sample or todo[:SAMPLE_TEXTS]
    speed = speed_of(warehouse, JOB, lambda: encoder.encode(sample), sum(encoder.token_counts(sample)))
    return Plan(JOB, ds, users, items, texts, tokens, speed.seconds(items, tokens), state)
