"""Job 1: encode every user's full history into persona vectors.

    histories: what changed since the last night ─▶ encode ─┬─▶ history_vectors   (items that are new, changed or gone)
    history_vectors, persona_vectors ───────────────────────┼─▶ persona_vectors   (of users whose items do not fit)
                                                            └─▶ rejects           (reason)

A persona is what `persona_vectors` stores of it and the newer items in `history_vectors`. A shard is a range of users
with at most `shard_items` changed items, fewer where they are long. Every changed item is in `history_vectors` or in
`rejects`, exactly once.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from embedder.devices import Dtype, device_facts
from embedder.encoder import TextEncoder
from embedder.errors import InputMissing, PplugError
from embedder.personas import PERSONA_VERSION
from llm_jobs.kinds import Kind
from pipelines.erasure.user_key import KEY_FILE, read_key
from pipelines.nights.job import Made, Night
from pipelines.nights.night import plan_night, run_night
from pipelines.nights.plans import Plan, speed_of
from pipelines.nights.precisions import with_precisions
from pipelines.nights.published import NightInputs
from pipelines.nights.runners import Runner
from pipelines.nights.runs import Progress, RunRecord, no_progress
from pipelines.nights.shards import Shard
from pipelines.personas.bases import base_table
from pipelines.personas.closing import Closed, read_closed
from pipelines.personas.encoders import absolute_model, encoder_facts, load_encoder, require_same
from pipelines.personas.items import (
    JOB,
    Changed,
    Changes,
    Encoded,
    encode_items,
    pending_items,
    read_changed,
    shard_tables,
)
from pipelines.personas.nights import PINNED, EncodedNight, Nights, encoded_nights, night_before
from pipelines.personas.protection import Protection
from pipelines.personas.whole import encode_whole, whole_items, whole_tables
from pipelines.tables.data_files import DataFile
from pipelines.tables.sql_files import query_text
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse

logger = logging.getLogger(__name__)

READS = ("histories", "deletions", "history_vectors", "persona_vectors")
"""Tables that the vectors are made from."""

WRITES = ("history_vectors", "persona_vectors")
"""Tables of which a night is replaced."""

SOURCES = ("histories", "deletions", "settled_histories")
"""Views that a night depends on."""

SAMPLE_TEXTS = 64
"""Texts that are encoded to estimate the speed before the first night."""


@dataclass(frozen=True)
class EncodeConfig:
    """How histories become persona vectors."""

    encoder: str = "minilm"
    """Alias, folder or hub id of the text encoder."""
    dtype: Dtype = "auto"
    """float32, bfloat16, float16 or auto, the precision the encoder computes in (see nights/precisions.py)."""
    max_vectors: int = 128
    """Most vectors that stand for one user."""
    protection: Protection = field(default_factory=Protection)
    """What stored vectors keep to themselves."""
    shard_items: int = 20_000
    """Most items of a shard: a unit of work, of memory and of resuming."""
    cache: Path | None = None
    """Where exported models are kept; the user's cache folder unless given."""
    device: str = "auto"
    """auto, cpu, cuda or mps: where the encoder computes (embedder/devices.py)."""


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

    name = JOB
    unit = "items"
    reads = READS
    writes = WRITES

    @property
    def takes_parts(self) -> bool:
        """Parts of a user meet in their items' vectors."""
        return self.config.protection.keeps_items

    @property
    def shard_rows(self) -> int:
        """Most items of a shard."""
        return self.config.shard_items

    @property
    def settings(self) -> Mapping[str, Any]:
        """The config, for the run record, and the card that computes."""
        return asdict(self.config) | device_facts(self.config.device)

    def decided(self, warehouse: Warehouse) -> "EncodeJob":
        """Decide the device and the encoder's precision."""
        return replace(self, config=with_precisions(warehouse, self.config))

    def inputs(self, warehouse: Warehouse, ds: date) -> NightInputs:
        """Pin what changed since the night that this one stands on, the encoder, and how each kind reads.

        Raises:
            InputMissing: if there is no such encoder, or nothing to encode and no night before.
        """
        encoder = encoder_facts(self.config, is_apart=self.is_apart)
        nights = encoded_nights(warehouse)
        if not self.rebuild:
            require_key(warehouse, nights)
        settings = {
            "encoder_sha256": encoder.sha256,
            "kernel": encoder.kernel,
            "max_vectors": self.config.max_vectors,
            "persona_version": PERSONA_VERSION,
            "protection": self.config.protection.of(warehouse, is_plan=self.is_plan).settings,
        }
        before = None if self.force else night_before(warehouse, nights, ds, settings)
        versions = warehouse.versions(READS)
        live = {name: warehouse.live(name, version) for name, version in versions.items()}
        since = Since(before, ds, live)
        with connect(warehouse, files={"histories": since.histories}) as db:
            found = run_sql(db, "jobs/item_kinds", {"ds": ds})["kind"].to_pylist()
        known = before.last.config["kinds"] if before else {}
        kinds = {name: self._reading(name) for name in sorted({*known, *found})}
        otherwise = tuple(name for name in known if kinds[name] != known[name])
        changes = Changes(ds, before and before.params, otherwise)
        is_wide = bool(otherwise) or since.has_waiting
        keeps_items = self.config.protection.keeps_items
        reads = since.reads(is_wide=is_wide or not keeps_items, force=self.force)
        with connect(warehouse, files=reads) as db:
            later = run_sql(db, "jobs/later_items", {"ds": ds})["item_count"][0].as_py()
        sources = SOURCES if is_wide else SOURCES[:2]  # else what is settled is part of the night before
        files = [file for name in sources for file in reads.get(name, ()) if file.ds <= ds]
        if before is None and not files:
            told = f"no histories as of {ds} in {warehouse}"
            raise InputMissing(f"{told}: run `pplug ingest histories FILE --ds {ds}`")
        facts = {"encoder_sha256": encoder.sha256, "width": encoder.width, "changes": changes}
        notes = {
            "is_full": before is None,
            "based_on_ds": before and before.last.ds.isoformat(),
            "pinned": {name: versions.get(name, -1) for name in PINNED},
        } | ({"later_item_count": later} if later else {})
        settings, based_on = settings | {"kinds": kinds}, before.run_ids if before else ()
        return NightInputs(
            warehouse, JOB, ds, WRITES, reads, files, settings, facts, notes, {"nights": nights}, based_on
        )

    def _reading(self, kind: str) -> list[Any] | None:
        """What the encoder reads of a kind, and whether its outputs are labels; None for a kind that is not known."""
        return [self.kinds[kind].sha256, self.kinds[kind].label_of("a") is not None] if kind in self.kinds else None

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
        changed = db.sql(query_text("jobs/changed_users"), params=inputs.facts["changes"].params)
        if self.config.protection.keeps_items:
            return changed
        columns = zip(("users", "counts", "weights"), changed.to_arrow_table().columns, strict=True)
        return db.sql(query_text("jobs/whole_users"), params={name: column.to_pylist() for name, column in columns})

    def load(self, facts: Mapping[str, Any]) -> TextEncoder:
        """Load the encoder that the night was planned with."""
        encoder = load_encoder(self.config)
        require_same("encoder", self.config.encoder, encoder.sha256, facts["encoder_sha256"])
        return encoder

    def read(self, night: Night, shard: Shard, db: duckdb.DuckDBPyConnection) -> Changed | Closed:
        """Read the changed items, each with the vector that an earlier run made of it, and what they add to.

        When the parts of a user are finished, make the base of all items instead.
        """
        facts, changes = night.facts, night.facts["changes"]
        if shard.is_closing:
            nights = changes.with_tonight(facts["encoder_sha256"])
            return read_closed(db, shard.first_user, nights, facts["width"], self.config.max_vectors)
        return self._changed(db, shard, changes, facts["encoder_sha256"])

    def _changed(self, db: duckdb.DuckDBPyConnection, shard: Shard, changes: Changes, encoder_sha256: str) -> Changed:
        most, keeps_items = self.config.max_vectors, self.config.protection.keeps_items
        return read_changed(db, shard, changes, encoder_sha256, most, keeps_items=keeps_items)

    def compute(self, night: Night, rows: Changed | Closed, models: TextEncoder) -> Encoded | Closed:
        """Encode the items that have no vector yet; where items keep none, all of the changed users'."""
        if isinstance(rows, Closed):
            return rows
        protector = self.config.protection.of(night.warehouse)
        pending = pending_items(rows.rows, self.kinds, protector, force=self.force)
        encode = encode_items if self.config.protection.keeps_items else encode_whole
        return encode(pending, rows.stored, models, self.kinds, protector)

    def shape(self, night: Night, results: Encoded | Closed) -> Made:
        """Make vectors of the changed items, and bases of personas that are too large, or are kept, without."""
        facts, most, protection = night.facts, self.config.max_vectors, self.config.protection
        made_with = facts["encoder_sha256"], facts["width"]
        if isinstance(results, Closed):
            constants = {"encoder_sha256": facts["encoder_sha256"], "run_id": night.run_id}
            return Made({"persona_vectors": base_table(results.bases, constants, facts["width"])}, 0, 0)
        if protection.keeps_items:
            tables = shard_tables(results, night.run_id, most, *made_with)
        else:
            tables = whole_tables(results, night.run_id, most, protection.min_items, *made_with)
        row_count = results.rows.num_rows + results.gone.num_rows
        return Made(tables, row_count, results.tokens, {"gone_count": results.gone.num_rows})

    def warn(self, inputs: NightInputs, counts: Mapping[str, int]) -> None:
        """Tell of later nights that stood on what this one was before, and of earlier ones that protect nothing."""
        if (
            self.config.protection.is_on
            and any(night.ds < inputs.ds for night in inputs.seen["nights"])
            and inputs.notes["is_full"]
        ):
            told = "vectors of the nights before %s are stored as they were: `pplug expire --keep 1` removes them"
            logger.warning(told, inputs.ds)
        later = [night.ds for night in inputs.seen["nights"] if night.ds > inputs.ds and not night.is_full]
        if later:
            told = "the nights after %s stand on it: `pplug backfill encode --start %s --end %s` brings them up to date"
            logger.warning(told, inputs.ds, later[0], later[-1])

    def estimate(self, inputs: NightInputs, shards: Sequence[Shard], planned: set[int] | None = None) -> Plan:
        """Say what a night would cost.

        Args:
            inputs: of the night.
            shards: all of it.
            planned: hashes of the items that nights before this one will have encoded by then; its own are added.
        """
        self.require(inputs)
        encoder, changes = load_encoder(self.config), inputs.facts["changes"]
        protector = self.config.protection.of(inputs.warehouse, is_plan=True)
        users = items = texts = tokens = 0
        sample: list[str] = []
        for shard in shards:
            with connect(inputs.warehouse, files=shard.files) as db:
                changed = self._changed(db, shard, changes, encoder.sha256)
            pending = pending_items(changed.rows, self.kinds, protector, force=self.force)
            if not self.config.protection.keeps_items:
                pending, planned = whole_items(changed.stored, self.kinds, protector), None
            todo = pending.todo_texts if planned is None else pending.unplanned_texts(planned)
            todo = list(dict.fromkeys(todo))
            users += len(set(pending.rows["user_id"].to_pylist())) if shard.parts == 1 else shard.part == 0
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
    is_plan: bool = False,
) -> EncodeJob:
    """Make the job, with a model that workers in other folders find."""
    is_apart = runner is not None and runner.is_elsewhere
    config = replace(config, encoder=absolute_model(config.encoder))
    return EncodeJob(config, kinds, force, rebuild, is_apart, is_plan)


class Since(NamedTuple):
    """What was ingested since a night."""

    before: Nights | None
    ds: date
    live: Mapping[str, Sequence[DataFile]]

    @property
    def histories(self) -> list[DataFile]:
        """Files of items that may have changed: what came since, and what came before for a later night."""
        there = self.live.get("histories", ())
        if self.before is None:
            return [file for file in there if file.ds <= self.ds]
        return [
            file
            for file in there
            if file.born > self.before.last.pinned["histories"] or self.before.last.ds < file.ds <= self.ds
        ]

    @property
    def has_waiting(self) -> bool:
        """Whether items were posted after the night before, and waited."""
        return self.before is not None and "later_item_count" in self.before.last.config

    def reads(self, *, is_wide: bool, force: bool) -> dict[str, list[DataFile]]:
        """The files of each view that the workers read; with `is_wide` those of items that did not change too."""
        vectors = list(self.live.get("history_vectors", ()))
        if self.before is None:
            nothing = {"settled_histories": [], "deletions": [], "history_vectors": [], "persona_vectors": []}
            return {"histories": self.histories, **nothing, "reusable_vectors": [] if force else vectors}
        changed, last = set(self.histories), self.before.last
        settled = [file for file in self.live.get("histories", ()) if file not in changed and file.ds <= self.ds]
        return {
            "histories": self.histories,
            "settled_histories": settled if is_wide else [],
            "deletions": [file for file in self.live.get("deletions", ()) if file.born > last.pinned["deletions"]],
            "history_vectors": self.before.files(vectors),
            "persona_vectors": self.before.files(self.live.get("persona_vectors", ())),
            "reusable_vectors": [file for file in vectors if file.ds > last.ds],
        }


def require_encoder(nights: Sequence[EncodedNight], encoder_sha256: str, ds: date) -> None:
    """Refuse to change the encoder unasked: no earlier vector could be used again, and no plug trained for them.

    Raises:
        PplugError: if one of the nights came from another encoder.
    """
    for night in nights:
        if night.encoder_sha256 != encoder_sha256:
            raise PplugError(
                f"persona_vectors ds={night.ds} was built with encoder {night.encoder_sha256[:8]}, but this one is "
                f"{encoder_sha256[:8]}: name that encoder and its precision (--encoder, --dtype), or run "
                f"`pplug encode --ds {max(ds, night.ds)} --rebuild` to encode every item anew with this one"
            )


def require_key(warehouse: Warehouse, nights: Sequence[EncodedNight]) -> None:
    """Refuse to go on under a new key unasked when that of protected nights is lost.

    Raises:
        PplugError: if there are such nights, and there is no key.
    """
    under_key = [night.ds for night in nights if night.is_protected]
    if under_key and read_key(warehouse) is None:
        raise PplugError(
            f"{warehouse}/{KEY_FILE} is gone, under which the personas of {under_key[-1]} are stored: restore it from "
            f"a backup, or run `pplug encode --ds {under_key[-1]} --rebuild` to store them under a new one"
        )


def require_protection(nights: Sequence[EncodedNight], protection: Mapping[str, Any], ds: date) -> None:
    """Refuse to store personas otherwise than protected nights before, unasked: an option may have been left out.

    Raises:
        PplugError: if one of the nights was protected in another way.
    """
    for night in nights:
        if night.is_protected and night.config["protection"] != protection:
            was = night.config["protection"]
            named = f"--min-items-per-vector {was['min_items']} --noise {was['noise']}"
            more = "" if was["item_vectors"] else " --no-item-vectors"
            raise PplugError(
                f"the personas of {night.ds} are stored with {named}{more}, under the key {was['key_check'][:8]}: "
                f"give the same options, or run `pplug encode --ds {ds} --rebuild` with others"
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
    return plan_night(encode_job(config, kinds, force=force, rebuild=rebuild, is_plan=True), warehouse, ds)
