"""Job 1: encode every user's full history into persona vectors.

    histories: what changed since the last night ─▶ encode ─┬─▶ history_vectors   (items that are new, changed or gone)
    history_vectors, persona_vectors ───────────────────────┼─▶ persona_vectors   (of users whose items do not fit)
                                                            └─▶ rejects           (reason)

A persona is what `persona_vectors` stores of it and the newer items in `history_vectors`. A shard is a range of users
with at most `shard_items` changed items, fewer where they are long. Every changed item is in `history_vectors` or in
`rejects`, exactly once.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any, ClassVar

import duckdb

from embedder.devices import device_facts
from embedder.encoder import TextEncoder
from embedder.errors import InputMissing
from embedder.personas import PERSONA_VERSION
from llm_jobs.kinds import Kind
from pipelines.nights import working
from pipelines.nights.job import Made, Night
from pipelines.nights.plans import Plan, estimated_seconds
from pipelines.nights.precisions import with_precisions
from pipelines.nights.published import NightInputs
from pipelines.nights.runners import Runner
from pipelines.nights.shards import Shard
from pipelines.personas import items, whole
from pipelines.personas.bases import Base, base_table
from pipelines.personas.encoders import EncoderConfig, absolute_model, encoder_facts, load_encoder, require_same
from pipelines.personas.items import JOB, Changed, Encoded, pending_items
from pipelines.personas.nights import (
    PINNED,
    Changes,
    Since,
    encoded_nights,
    night_before,
    require_encoder,
    require_key,
    require_protection,
)
from pipelines.personas.protection import Protection
from pipelines.personas.stored import base_of_parts
from pipelines.tables.data_files import DataFile
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)

SAMPLE_TEXTS = 64  # texts that are encoded to estimate the speed before the first night


@dataclass(frozen=True)
class EncodeConfig(EncoderConfig):
    """How histories become persona vectors."""

    max_vectors: int = 128
    """Most vectors that stand for one user."""
    protection: Protection = field(default_factory=Protection)
    """What stored vectors keep to themselves."""
    shard_items: int = 20_000
    """Most items of a shard: a unit of work, of memory and of resuming."""


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
    is_plan: bool = False
    """Nothing is written, not even the key of a protection."""

    name: ClassVar[str] = JOB
    unit: ClassVar[str] = "items"
    reads: ClassVar[Sequence[str]] = ("histories", "deletions", "history_vectors", "persona_vectors")
    writes: ClassVar[Sequence[str]] = ("history_vectors", "persona_vectors")

    @property
    def _way(self) -> Any:
        """What a night reads and makes: items.py where items keep a vector, else whole.py, with the same functions."""
        return items if self.config.protection.keeps_items else whole

    @property
    def takes_parts(self) -> bool:
        """Parts of a user meet in their items' vectors."""
        return self._way.TAKES_PARTS

    @property
    def shard_rows(self) -> int:
        return self.config.shard_items

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self.config) | device_facts(self.config.device)

    def decided(self, warehouse: Warehouse) -> "EncodeJob":
        return replace(self, config=with_precisions(warehouse, self.config))

    def inputs(self, warehouse: Warehouse, ds: date) -> NightInputs:
        """Pin what changed since the night that this one stands on, the encoder, and how each kind reads.

        Raises:
            InputMissing: if there is no such encoder, or nothing to encode and no night before.
        """
        sha256, kernel, width = encoder_facts(self.config, is_apart=self.is_apart)
        nights = encoded_nights(warehouse)
        if not self.rebuild:
            require_key(warehouse, nights)
        settings = {
            "encoder_sha256": sha256,
            "kernel": kernel,
            "max_vectors": self.config.max_vectors,
            "persona_version": PERSONA_VERSION,
            "protection": self.config.protection.of(warehouse, is_plan=self.is_plan).settings,
        }
        before = None if self.force else night_before(warehouse, nights, ds, settings)
        versions = warehouse.versions(self.reads)
        since = Since(before, ds, {name: warehouse.live(name, version) for name, version in versions.items()})
        known = before.last.config["kinds"] if before else {}
        kinds = self._readings(warehouse, since, known)
        otherwise = tuple(name for name in known if kinds[name] != known[name])
        changes = Changes(ds, before and before.params, otherwise)
        is_wide = bool(otherwise) or since.has_waiting
        reads = since.reads(is_wide=is_wide or self._way.READS_ALL, force=self.force)
        with connect(warehouse, files=reads) as db:
            later = run_sql(db, "jobs/later_items", {"ds": ds})["item_count"][0].as_py()
        files = files_that_count(reads, ds, is_wide=is_wide)
        if before is None and not files:
            told = f"no histories as of {ds} in {warehouse}"
            raise InputMissing(f"{told}: run `pplug ingest histories FILE --ds {ds}`")
        facts = {"encoder_sha256": sha256, "width": width, "changes": changes}
        notes = {"is_full": before is None, "based_on_ds": before and before.last.ds.isoformat()}
        notes |= {"pinned": {name: versions.get(name, -1) for name in PINNED}}
        notes |= {"later_item_count": later} if later else {}
        settings, based_on = settings | {"kinds": kinds}, before.run_ids if before else ()
        found = (reads, files, settings, facts, notes, {"nights": nights}, based_on)
        return NightInputs(warehouse, JOB, ds, self.writes, *found)

    def _readings(self, warehouse: Warehouse, since: Since, known: Iterable[str]) -> dict[str, list[Any] | None]:
        """What the encoder reads of each kind, and whether its outputs are labels; None of a kind that is not known."""
        with connect(warehouse, files={"histories": since.histories}) as db:
            found = run_sql(db, "jobs/item_kinds", {"ds": since.ds})["kind"].to_pylist()
        kinds = {name: self.kinds.get(name) for name in sorted({*known, *found})}
        return {name: kind and [kind.sha256, kind.label_of("a") is not None] for name, kind in kinds.items()}

    def require(self, inputs: NightInputs) -> None:
        """Refuse to change the encoder unasked, and tell of items that wait for their night."""
        if later := inputs.notes.get("later_item_count"):
            logger.warning("%d items are dated after %s and wait for their night", later, inputs.ds)
        nights, sha256 = inputs.seen["nights"], inputs.facts["encoder_sha256"]
        earlier = [night for night in nights if night.ds <= inputs.ds][-1:]
        later = [night for night in nights if night.ds > inputs.ds]
        require_encoder([*([] if self.rebuild else earlier), *later], sha256, inputs.ds)
        if not self.rebuild:
            require_protection(earlier, inputs.settings["protection"], inputs.ds)

    def row_counts(self, db: duckdb.DuckDBPyConnection, inputs: NightInputs) -> duckdb.DuckDBPyRelation:
        """Count each user's changed items; they weigh what is encoded for them."""
        return self._way.changed_users(db, inputs.facts["changes"])

    def load(self, facts: Mapping[str, Any]) -> TextEncoder:
        encoder = load_encoder(self.config)
        require_same("encoder", self.config.encoder, encoder.sha256, facts["encoder_sha256"])
        return encoder

    def read(self, night: Night, shard: Shard, db: duckdb.DuckDBPyConnection) -> Changed | Mapping[str, Base]:
        """Read the changed items, each with the vector that an earlier run made of it, and what they add to.

        When the parts of a user are finished, make the base of all items instead.
        """
        changes, sha256, most = night.facts["changes"], night.facts["encoder_sha256"], self.config.max_vectors
        if shard.joins_parts:
            return base_of_parts(db, shard.first_user, changes.with_tonight(sha256), night.facts["width"], most)
        return self._way.read_changed(db, shard, changes, sha256, most)

    def compute(
        self, night: Night, rows: Changed | Mapping[str, Base], models: TextEncoder
    ) -> Encoded | Mapping[str, Base]:
        """Encode the items that have no vector yet; where items keep none, all of the changed users'."""
        if not isinstance(rows, Changed):
            return rows
        protector = self.config.protection.of(night.warehouse)
        pending = pending_items(rows.rows, self.kinds, protector, force=self.force)
        return self._way.encode_items(pending, rows.stored, models, self.kinds, protector, working.count)

    def shape(self, night: Night, results: Encoded | Mapping[str, Base]) -> Made:
        """Make vectors of the changed items, and bases of personas that are too large, or are kept, without."""
        width, constants = night.facts["width"], {"encoder_sha256": night.facts["encoder_sha256"]}
        constants["run_id"] = night.run_id
        if not isinstance(results, Encoded):
            return Made({"persona_vectors": base_table(results, constants, width)}, 0, 0)
        tables = self._way.shard_tables(results, constants, width, self.config.max_vectors, self.config.protection)
        row_count = results.rows.num_rows + results.gone.num_rows
        return Made(tables, row_count, results.tokens, {"gone_count": results.gone.num_rows})

    def warn(self, inputs: NightInputs, counts: Mapping[str, int]) -> None:
        """Tell of later nights that stood on what this one was before, and of vectors with another protection."""
        own = inputs.settings["protection"]
        others = [one for one in inputs.seen["nights"] if one.ds <= inputs.ds and one.config.get("protection") != own]
        if self.config.protection.is_on and inputs.notes["is_full"] and others:
            told = "vectors of nights up to %s are stored without this protection: `pplug expire --keep 1` removes them"
            logger.warning(told, others[-1].ds)
        later = [night.ds for night in inputs.seen["nights"] if night.ds > inputs.ds and not night.is_full]
        if later:
            told = "the nights after %s stand on it: `pplug backfill encode --start %s --end %s` brings them up to date"
            logger.warning(told, inputs.ds, later[0], later[-1])

    def estimate(self, inputs: NightInputs, shards: Sequence[Shard], planned: set[int] | None = None) -> Plan:
        """Say what a night would cost, without the items, by their hashes, that nights before it will have encoded."""
        self.require(inputs)
        encoder, changes = load_encoder(self.config), inputs.facts["changes"]
        protector = self.config.protection.of(inputs.warehouse, is_plan=True)
        users = rows = texts = tokens = 0
        sample: list[str] = []
        for shard in shards:
            with connect(inputs.warehouse, files=shard.files) as db:
                changed = self._way.read_changed(db, shard, changes, encoder.sha256, self.config.max_vectors)
            pending, todo = self._way.unplanned(changed, self.kinds, protector, planned, force=self.force)
            todo = list(dict.fromkeys(todo))
            users += len(set(pending.rows["user_id"].to_pylist())) if shard.parts == 1 else shard.part == 0
            rows, texts = rows + len(pending.texts), texts + len(todo)
            tokens += sum(encoder.token_counts(todo))
            sample = sample or todo[:SAMPLE_TEXTS]
        sampled = (lambda: encoder.encode(sample), sum(encoder.token_counts(sample)))
        seconds = estimated_seconds(inputs.warehouse, JOB, rows, tokens, *sampled)
        return Plan(JOB, inputs.ds, users, rows, texts, tokens, seconds, inputs.published()[0])


def files_that_count(reads: Mapping[str, Sequence[DataFile]], ds: date, *, is_wide: bool) -> list[DataFile]:
    """The files that the rows of a night depend on; settled items are part of the night before, unless read again."""
    sources = ("histories", "deletions", *(("settled_histories",) if is_wide else ()))
    return [file for name in sources for file in reads.get(name, ()) if file.ds <= ds]


def encode_job(
    config: EncodeConfig,
    kinds: Mapping[str, Kind],
    *,
    force: bool = False,
    rebuild: bool = False,
    runner: Runner | None = None,
    is_plan: bool = False,
) -> EncodeJob:
    """Make the job, with a model that workers in other folders find."""
    is_apart = runner is not None and runner.is_elsewhere
    config = replace(config, encoder=absolute_model(config.encoder))
    return EncodeJob(config, kinds, force, rebuild, is_apart, is_plan)
