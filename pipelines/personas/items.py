"""The items that changed: read with the vectors earlier runs made, encoded where there is none, and what comes of them.

changed items ─▶ Pending ─▶ Encoded ─┬─▶ history_vectors: their vectors, and which items are gone
what is stored of their users ───────┴─▶ persona_vectors: new bases, where the items do not fit

Where items keep no vector of their own (protection.py), `history_vectors` only tells which were encoded, and all items
of a user of whom one changed are encoded again (whole.py).
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedder.compact import CompactVectors
from embedder.encoder import Tell, TextEncoder
from embedder.personas import Summary
from llm_jobs.kinds import Kind
from pipelines.nights.shards import Shard
from pipelines.personas.asked import ask_for
from pipelines.personas.bases import Base, UserItems, base_table, read_bases, read_items, with_newer
from pipelines.personas.columns import compact_vectors, lists_of, table_of, with_vectors
from pipelines.personas.nights import Changes
from pipelines.personas.protection import Protection, Protector
from pipelines.tables.sql_files import query_text
from pipelines.tables.views import run_sql

JOB = "encode"

TAKES_PARTS = True  # whether the items of a user can be encoded in parts
READS_ALL = False  # whether a night also reads the items that did not change


class Stored(NamedTuple):
    """What is stored of users whose items may not fit any more."""

    users: frozenset[str]
    whole_users: frozenset[str]  # those of them whose persona is made anew from all their items
    bases: pa.Table
    items: pa.Table
    """Those newer than the base; of whole users all. With text and output where items keep no vector."""


class Changed(NamedTuple):
    """The changed items of a shard, and what is stored of their users."""

    rows: pa.Table
    stored: Stored


class Pending(NamedTuple):
    """A shard's items with what is known before the encoder runs; the arrays have one entry for each of `rows`."""

    rows: pa.Table
    gone: pa.Table  # items that are no more
    refused: pa.Table  # items of a kind that no file or setting describes
    texts: list[str]
    hashes: list[str]  # sha256 of each text
    is_todo: NDArray[np.bool_]  # the encoder must run

    @property
    def names(self) -> list[tuple[str, str, str, str]]:
        """User, kind, item and hash of the text of each."""
        keys = (self.rows[name].to_pylist() for name in ("user_id", "kind", "item_id"))
        return list(zip(*keys, self.hashes, strict=True))

    def named_rows(self, kinds: Mapping[str, Kind]) -> pa.Table:
        """The rows with `item_sha256` and `label`, instead of what an earlier run made of them."""
        columns = (self.rows[name].to_pylist() for name in ("kind", "output"))
        labels = [kinds[kind].label_of(output) for kind, output in zip(*columns, strict=True)]
        made = {"vector", "vector_scale", "item_sha256"} & {*self.rows.column_names}
        rows = self.rows.drop_columns([*made])
        rows = rows.append_column("item_sha256", pa.array(self.hashes, pa.string()))
        return rows.append_column("label", pa.array(labels, pa.string()))

    @property
    def todo(self) -> list[tuple[tuple[str, str, str, str], str]]:
        """What the encoder must run on, in the order of the items: of each its name and its text."""
        rows = zip(self.names, self.texts, self.is_todo, strict=True)
        return [(name, text) for name, text, is_todo in rows if is_todo]


class Encoded(NamedTuple):
    """A shard's items with their vectors."""

    rows: pa.Table  # with `item_sha256` and `label`
    vectors: CompactVectors  # one for each of `rows`
    gone: pa.Table
    refused: pa.Table
    stored: Stored
    tokens: int


def changed_users(db: duckdb.DuckDBPyConnection, changes: Changes) -> duckdb.DuckDBPyRelation:
    """Count each user's changed items; they weigh what is encoded for them."""
    return db.sql(query_text("jobs/changed_users"), params=changes.params)


def read_changed(
    db: duckdb.DuckDBPyConnection, shard: Shard, changes: Changes, encoder_sha256: str, max_vectors: int
) -> Changed:
    """Read the changed items of the shard's users, each with the newest vector made of it, and what they add to."""
    rows, nights = changed_rows(db, shard, changes, encoder_sha256)
    # of a user in parts the base is made at the end, by `base_of_parts`
    whose = rows["user_id"].unique().to_pylist() if shard.parts == 1 else []
    held = run_sql(db, "jobs/users_held", nights | {"users": whose})
    grown, whole = users_to_merge(rows, held.to_pylist(), max_vectors)
    ask_for(db, grown | whole)
    bases = run_sql(db, "jobs/bases_of_users", nights)
    items = run_sql(db, "jobs/items_since_base", nights | {"whole_users": sorted(whole)})
    return Changed(rows, Stored(frozenset(grown | whole), frozenset(whole), bases, items))


def changed_rows(
    db: duckdb.DuckDBPyConnection, shard: Shard, changes: Changes, encoder_sha256: str
) -> tuple[pa.Table, dict[str, Any]]:
    """Read the changed items of the shard's users; also the nights that their personas stand on, for queries."""
    users = {"first_user": shard.first_user, "last_user": shard.last_user, "part": shard.part, "parts": shard.parts}
    rows = run_sql(db, "jobs/changed_items", changes.params | users | {"encoder_sha256": encoder_sha256})
    nothing = {"first_ds": changes.ds, "last_ds": changes.ds, "encoder_sha256": encoder_sha256}
    return rows, dict(changes.before or nothing)


def users_to_merge(rows: pa.Table, held: Sequence[Mapping[str, Any]], max_vectors: int) -> tuple[set[str], set[str]]:
    """Choose, by the changed items and what is held of their users, whose items may not fit any more.

    Returns:
        Those whose base stays and grows; those whose base is made anew from all items, because one in it changed, went,
        or came late, or because there is none yet.
    """
    last = {
        row["user_id"]: (np.datetime64(row["last_posted_at"], "us").astype(int), row["last_kind"], row["last_item_id"])
        for row in held
        if row["base_count"]
    }
    new_count, is_touched = dict[str, int](), set[str]()
    times = rows["posted_at"].cast(pa.int64()).to_pylist()
    names = ("user_id", "kind", "item_id", "is_edit")
    for user, kind, item_id, is_edit, time in zip(*(rows[name].to_pylist() for name in names), times, strict=True):
        new_count[user] = new_count.get(user, 0) + 1
        if user in last and (is_edit or (time, kind, item_id) <= last[user]):
            is_touched.add(user)
    grown, whole = set[str](), set[str]()
    for row in held:
        user = row["user_id"]
        if user in is_touched:
            whole.add(user)
        elif row["base_vectors"] + row["vector_count"] - row["base_count"] + new_count[user] > max_vectors:
            (grown if user in last else whole).add(user)
    return grown, whole


def pending_items(changed: pa.Table, kinds: Mapping[str, Kind], protector: Protector, *, force: bool) -> Pending:
    """Find the items whose text an earlier run has not encoded; with `force`, all."""
    gone = changed.filter(changed["is_deleted"])
    items = changed.filter(pc.call_function("invert", [changed["is_deleted"]]))
    texts = item_texts(items, kinds)
    known = np.array([text is not None for text in texts], dtype=bool)
    rows, refused = items.filter(pa.array(known)), items.filter(pa.array(~known))
    kept = [text for text in texts if text is not None]
    hashes = [protector.sha256(text) for text in kept]
    is_held = np.array([ours == held for ours, held in zip(hashes, rows["item_sha256"].to_pylist(), strict=True)], bool)
    return Pending(rows, gone, refused, kept, hashes, np.ones_like(is_held) if force else ~is_held)


def encode_items(
    pending: Pending, stored: Stored, encoder: TextEncoder, kinds: Mapping[str, Kind], protector: Protector, tell: Tell
) -> Encoded:
    """Give each item its vector: that of an earlier run where the text is the same, else a new one."""
    is_todo, todo = pending.is_todo, pending.todo
    fresh, tokens = encoder.encode_counted([text for _, text in todo], tell=tell)
    fresh = protector.noisy(fresh, [name for name, _ in todo])
    held = pending.rows.filter(pa.array(~is_todo))
    known = compact_vectors(held["vector"], held["vector_scale"], encoder.width)
    order = np.argsort(np.concatenate([np.flatnonzero(is_todo), np.flatnonzero(~is_todo)]))
    vectors = CompactVectors.concatenate([CompactVectors.of(fresh), known])[order]
    return Encoded(pending.named_rows(kinds), vectors, pending.gone, pending.refused, stored, tokens)


def unplanned(
    changed: Changed, kinds: Mapping[str, Kind], protector: Protector, planned: set[int] | None, *, force: bool
) -> tuple[Pending, list[str]]:
    """Say what the encoder must run on; nothing twice that is in `planned`, of nights before, which is added to."""
    pending, seen = pending_items(changed.rows, kinds, protector, force=force), planned or set[int]()
    new = {hash(name): text for name, text in pending.todo if hash(name) not in seen}
    if planned is not None:
        planned.update(new)
    return pending, list(new.values())


def item_texts(rows: pa.Table, kinds: Mapping[str, Kind]) -> list[str | None]:
    """What the encoder reads of each item; None for a kind that no file or setting describes."""
    items = zip(*(rows[name].to_pylist() for name in ("kind", "text", "output")), strict=True)
    return [kinds[kind].encoder_text(text, output) if kind in kinds else None for kind, text, output in items]


def shard_tables(
    encoded: Encoded, constants: Mapping[str, str], width: int, max_vectors: int, _: Protection
) -> dict[str, pa.Table]:
    """Make a shard's rows of each table; `constants` are the encoder and the run."""
    return tables_of(encoded, new_bases(encoded, max_vectors, width), constants, width)


def tables_of(
    encoded: Encoded, bases: Mapping[str, Base], constants: Mapping[str, str], width: int
) -> dict[str, pa.Table]:
    """The rows of each table that a shard's items and the bases of its users make."""
    return {
        "history_vectors": vector_rows(encoded, constants),
        "persona_vectors": base_table(bases, constants, width),
        "rejects": rejected_items(encoded.refused, constants["run_id"]),
    }


def new_bases(encoded: Encoded, max_vectors: int, width: int) -> dict[str, Base]:
    """Make the base of each user anew whose items may not fit any more, and keep those that changed, by user."""
    stored = encoded.stored
    old = read_bases(stored.bases, width)
    before = dict(read_items(stored.items, width))
    chosen = pa.array([user in stored.users for user in encoded.rows["user_id"].to_pylist()], pa.bool_())
    vectors = encoded.vectors[np.flatnonzero(chosen.to_numpy(zero_copy_only=False))]
    tonight = dict(read_items(with_vectors(encoded.rows.filter(chosen), vectors), width))
    gone = set(_keys(encoded.gone)) | set(_keys(encoded.refused))
    nothing = Base(Summary.empty(width))
    found = dict[str, Base]()
    for user in sorted(stored.users):
        items = newest_items([own[user] for own in (before, tonight) if user in own], user, gone)
        base = nothing if user in stored.whole_users else old[user]
        made = base if items is None else with_newer(base, items, max_vectors)[0]
        if made.summary.item_count != base.summary.item_count or (base is nothing and user in old):
            found[user] = made
    return found


def newest_items(parts: Sequence[UserItems], user: str, gone: set[tuple[str, str, str]]) -> UserItems | None:
    """The items of a user that count, in their order; of two with one key that of the last part. None without any."""
    if not parts:
        return None
    every = reduce(add, parts)
    rows = enumerate(zip(every.items.keys, every.posted_at, strict=True))
    places = {key: ((time, *key), at) for at, (key, time) in rows}
    order = [at for (_, *key), at in sorted(places.values()) if (user, *key) not in gone]
    return every.chosen(order) if order else None


def vector_rows(encoded: Encoded, constants: Mapping[str, str]) -> pa.Table:
    """Rows of `history_vectors`: the items with their vectors, and those that are gone."""
    names = ("user_id", "kind", "item_id", "posted_at", "item_sha256", "label")
    vectors = {"vector": lists_of(encoded.vectors.codes), "vector_scale": pa.array(encoded.vectors.scales)}
    own = {name: encoded.rows.column(name) for name in names} | vectors
    there = table_of("history_vectors", own | {"is_deleted": [False] * encoded.rows.num_rows}, constants)
    return pa.concat_tables([there, _gone_rows(encoded, constants)])


def _gone_rows(encoded: Encoded, constants: Mapping[str, str]) -> pa.Table:
    """Say which items are no more, those among them of which the encoder cannot read the new text."""
    unreadable = encoded.refused.filter(encoded.refused["is_edit"])
    names = ("user_id", "kind", "item_id", "posted_at")
    rows = pa.concat_tables([table.select(names) for table in (encoded.gone, unreadable)])
    nothing = {"item_sha256": "", "label": None, "vector": [], "vector_scale": 0.0, "is_deleted": True}
    own = {name: rows.column(name) for name in names}
    repeated = {name: [value] * rows.num_rows for name, value in nothing.items()}
    return table_of("history_vectors", own | repeated, constants)


def rejected_items(rows: pa.Table, run_id: str) -> pa.Table:
    """Rows of `rejects` for items of a kind that is not known."""
    kinds, items = rows["kind"].to_pylist(), rows["item_id"].to_pylist()
    return table_of(
        "rejects",
        {
            "row_id": [f"{kind}/{item}" for kind, item in zip(kinds, items, strict=True)],
            "user_id": rows["user_id"],
            "detail": [f"kind {kind!r} is not known: add [kinds.{kind}] to pplug.toml" for kind in kinds],
        },
        {"job": JOB, "reason": "unknown_kind", "run_id": run_id, "source": "histories"},
    )


def _keys(rows: pa.Table) -> list[tuple[str, str, str]]:
    return list(zip(*(rows[name].to_pylist() for name in ("user_id", "kind", "item_id")), strict=True))
