"""Job 1: encode every user's full history into persona vectors.

    histories ─▶ read a range of users ─▶ encode ─▶ group by user ─▶ persona_vectors
    history_vectors (earlier nights) ─┘      │  └────────────────▶ history_vectors   (items encoded for the first time)
                                             └──────────────────▶ rejects           (reason)

A shard is a range of users with at most `shard_items` items. It is read, encoded and summarised in one fused step, so
that neither text nor vectors cross a shuffle; the driver publishes the finished shards. Every item read is in one
user's persona or in `rejects`, exactly once.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.utils.shared import Shared
from numpy.typing import NDArray

from embedder.encoder import Dtype, TextEncoder
from embedder.errors import InputMissing
from embedder.personas import FloatArray
from llm_jobs.kinds import Kind
from pipelines.jobs import Night, publish_shards, run_shards
from pipelines.persona_table import history_vector_table, matrix, persona_table, table_of
from pipelines.runs import Progress, RunRecord, no_progress, recorded_run
from pipelines.shards import Receipt, Shard, ShardFolder, cut_shards
from pipelines.views import connect, run_sql
from pipelines.warehouse import Warehouse

JOB = "encode"


@dataclass(frozen=True)
class EncodeConfig:
    """How histories become persona vectors."""

    encoder: str = "minilm"
    """Alias, folder or hub id of the text encoder."""
    dtype: Dtype = "float32"
    """float32 or bfloat16, the precision the encoder computes in."""
    max_vectors: int = 64
    """Most vectors that stand for one user."""
    shard_items: int = 20_000
    """Most items of a shard: a unit of work, of memory and of resuming."""
    cache: Path | None = None
    """Where exported models are kept; the user's cache folder unless given."""


class Items(NamedTuple):
    """A shard's items as `sql/jobs/items_of_users.sql` gives them."""

    shard: Shard
    rows: pa.Table


class Encoded(NamedTuple):
    """A shard's items with their vectors; refused items are in `rejects` only."""

    shard: Shard
    rows: pa.Table
    vectors: FloatArray
    """(n, d), a row for each of `rows`."""
    is_new: NDArray[np.bool_]
    """(n,) no earlier night holds this vector."""
    rejects: pa.Table
    tokens: int


def encode_items(items: Items, night: Night, encoder: TextEncoder, *, force: bool) -> Encoded:
    """Give each item its vector: that of an earlier run where the text is the same, else a new one.

    Equal texts are encoded once. With `force` every text is encoded anew.
    """
    texts = item_texts(items.rows, night.kinds)
    known = np.array([text is not None for text in texts], dtype=bool)
    rows, refused = items.rows.filter(pa.array(known)), items.rows.filter(pa.array(~known))
    kept = [text for text in texts if text is not None]
    hashes = [hashlib.sha256(text.encode("utf8", "replace")).hexdigest() for text in kept]
    is_held = np.array([ours == held for ours, held in zip(hashes, rows["item_sha256"].to_pylist(), strict=True)], bool)
    is_earlier = np.array([ds is not None and ds < night.ds for ds in rows["vector_ds"].to_pylist()], bool)
    is_todo = np.ones_like(is_held) if force else ~is_held
    todo = list(dict.fromkeys(text for text, is_wanted in zip(kept, is_todo, strict=True) if is_wanted))
    places = {text: at for at, text in enumerate(todo)}
    fresh = encoder.encode(todo)
    vectors = np.zeros((len(kept), encoder.width), np.float32)
    vectors[is_todo] = fresh[[places[text] for text, is_wanted in zip(kept, is_todo, strict=True) if is_wanted]]
    vectors[~is_todo] = matrix(rows["vector"].filter(pa.array(~is_todo)), encoder.width)
    rows = rows.drop_columns(["vector", "item_sha256"]).append_column("item_sha256", pa.array(hashes, pa.string()))
    tokens = sum(encoder.token_counts(todo))
    return Encoded(items.shard, rows, vectors, ~(is_held & is_earlier), rejected_items(refused, night), tokens)


def item_texts(rows: pa.Table, kinds: Mapping[str, Kind]) -> list[str | None]:
    """What the encoder reads of each item; None for a kind that no file or setting describes."""
    columns = (rows.column(name).to_pylist() for name in ("kind", "text", "output"))
    return [
        kinds[kind].encoder_text(text, output) if kind in kinds else None
        for kind, text, output in zip(*columns, strict=True)
    ]


def rejected_items(rows: pa.Table, night: Night) -> pa.Table:
    """Rows of `rejects` for items of a kind that is not known."""
    kinds, items = rows["kind"].to_pylist(), rows["item_id"].to_pylist()
    return table_of(
        "rejects",
        {
            "row_id": [f"{kind}/{item}" for kind, item in zip(kinds, items, strict=True)],
            "user_id": rows["user_id"],
            "detail": [f"kind {kind!r} is not known: add [kinds.{kind}] to pplug.toml" for kind in kinds],
        },
        {"job": JOB, "reason": "unknown_kind", "run_id": night.run_id, "source": "histories"},
    )


def shard_tables(encoded: Encoded, night: Night, max_vectors: int, encoder_sha256: str) -> dict[str, pa.Table]:
    """The shard's rows of each table."""
    constants = {"encoder_sha256": encoder_sha256, "run_id": night.run_id}
    new = encoded.rows.filter(pa.array(encoded.is_new))
    return {
        "persona_vectors": persona_table(encoded.rows, encoded.vectors, max_vectors, constants),
        "history_vectors": history_vector_table(new, encoded.vectors[encoded.is_new], constants),
        "rejects": encoded.rejects,
    }


class ReadItems(beam.DoFn):
    """Shard in, its items out."""

    def __init__(self, night: Night, encoder_sha256: str) -> None:
        self._night, self._encoder_sha256 = night, encoder_sha256

    def process(self, shard: Shard) -> Iterator[Items]:
        params = {
            "ds": self._night.ds,
            "first_user": shard.first_user,
            "last_user": shard.last_user,
            "encoder_sha256": self._encoder_sha256,
        }
        with connect(Warehouse(self._night.root), self._night.versions) as db:
            yield Items(shard, run_sql(db, "jobs/items_of_users", params))


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
        receipt = Receipt(encoded.shard.index, kept + rejected, kept, rejected, encoded.tokens)
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


ENCODER = Shared()
"""One encoder per worker process, whichever DoFn asks."""


def load_encoder(config: EncodeConfig) -> TextEncoder:
    """The encoder that `config` names, loaded once per process."""
    return ENCODER.acquire(
        lambda: TextEncoder.from_pretrained(config.encoder, dtype=config.dtype, cache=config.cache),
        tag=f"{config.encoder} {config.dtype}",
    )


def user_shards(warehouse: Warehouse, versions: Mapping[str, int], ds: date, shard_items: int) -> list[Shard]:
    """The users with items as of the night, cut into shards.

    Raises:
        InputMissing: if no history is there as of that night.
    """
    with connect(warehouse, versions) as db:
        sizes = run_sql(db, "jobs/user_sizes", {"ds": ds})
    if not sizes.num_rows:
        raise InputMissing(f"no histories as of {ds} in {warehouse.root}: run `pplug ingest histories FILE --ds {ds}`")
    return cut_shards(zip(*(column.to_pylist() for column in sizes.columns), strict=True), shard_items)


def encode_night(
    warehouse: Warehouse,
    ds: date,
    config: EncodeConfig,
    kinds: Mapping[str, Kind],
    *,
    force: bool = False,
    progress: Progress = no_progress,
) -> RunRecord:
    """Write the night's `persona_vectors`, and `history_vectors` of the items no earlier night holds.

    Args:
        warehouse: read and written.
        ds: what was ingested by this night and posted by the end of this day is encoded.
        config: what determines the vectors.
        kinds: how an item of each kind becomes text.
        force: encode every item anew instead of taking over vectors of earlier runs.
        progress: told of the items done.

    Raises:
        InputMissing: if there are no histories as of that night, or there is no such encoder.
    """
    with recorded_run(warehouse, JOB, ds, asdict(config)) as record:
        versions = warehouse.versions()
        shards = user_shards(warehouse, versions, ds, config.shard_items)
        encoder = load_encoder(config)
        record.config = asdict(config) | {"encoder_sha256": encoder.sha256, "kernel": encoder.kernel}
        kind_hashes = {name: kind.sha256 for name, kind in kinds.items()}
        folder = ShardFolder.of(warehouse, JOB, record.config | {"ds": ds, "versions": versions, "kinds": kind_hashes})
        night = Night(warehouse.root, ds, record.run_id, versions, kinds, folder)
        if force:
            folder.remove()
        run_shards(shards, EncodeNight(night, config, encoder.sha256, force=force), folder, "items", progress)
        publish_shards(warehouse, night, JOB, ("history_vectors", "persona_vectors"), shards, record)
    return record
