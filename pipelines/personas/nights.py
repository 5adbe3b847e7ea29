"""The nights that were encoded, and on which of them a new one stands.

    runs ─▶ nights published before, the newest first ─▶ the first with the same settings that nobody wrote to since

A night that stands on another reads what was ingested since and writes what differs. A full night reads everything, and
nothing that was written before it counts any more.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import duckdb
from deltalake import DeltaTable

from embedder.errors import InputMissing, PplugError
from pipelines.erasure.user_key import KEY_FILE, read_key
from pipelines.tables.data_files import DataFile
from pipelines.tables.sql_files import statement_text
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

PINNED = ("histories", "deletions")  # tables whose versions a night notes, so that the next one knows what came since


@dataclass(frozen=True)
class EncodedNight:
    """A night that `encode` published."""

    ds: date
    run_id: str
    config: Mapping[str, Any]
    encoder_sha256: str
    is_full: bool  # it stands on no other night
    is_protected: bool  # its vectors keep something to themselves; see protection.py
    keeps_items: bool  # its items have vectors of their own

    @property
    def pinned(self) -> Mapping[str, int]:
        """The versions of the tables that it was made from."""
        return self.config["pinned"]

    def is_like(self, settings: Mapping[str, Any]) -> bool:
        """Whether it was made with the same settings, kinds aside."""
        return all(self.config.get(name) == value for name, value in settings.items() if name != "kinds")

    def is_whole(self, tables: Mapping[str, DeltaTable | None]) -> bool:
        """Whether the tables still hold what it published, and nobody wrote to the night since."""
        name = f"ds={self.ds.isoformat()}"
        counts: Mapping[str, int] = self.config["published"]
        there = {table: opened.transaction_version(name) for table, opened in tables.items() if opened is not None}
        return all(there.get(table) == count for table, count in counts.items())


@dataclass(frozen=True)
class Nights:
    """The nights of personas up to one of them: a full one, and those that say what changed since."""

    nights: Sequence[EncodedNight]  # the oldest, which is full, first

    @property
    def last(self) -> EncodedNight:
        return self.nights[-1]

    def require_whole(self, warehouse: Warehouse) -> None:
        """Refuse personas of which a part is gone; raises PplugError if a night is not as it was published."""
        tables = opened_tables(warehouse)
        for night in self.nights:
            if not night.is_whole(tables):
                told = f"persona_vectors ds={night.ds} are not as their run published them"
                raise PplugError(f"{told}: run `pplug encode --ds {night.ds}`")

    @property
    def run_ids(self) -> list[str]:
        return [night.run_id for night in self.nights]

    @property
    def params(self) -> dict[str, Any]:
        """For the queries: the nights, and the encoder of all of them."""
        span = {"first_ds": self.nights[0].ds, "last_ds": self.last.ds}
        return span | {"encoder_sha256": self.last.encoder_sha256}

    def files(self, live: Sequence[DataFile]) -> list[DataFile]:
        """Those that hold something of these nights."""
        return [file for file in live if self.nights[0].ds <= file.ds <= self.last.ds]


def encoded_nights(warehouse: Warehouse) -> list[EncodedNight]:
    """Every night that is published, the oldest first."""
    with connect(warehouse, files={"runs": warehouse.live("runs")}) as db:
        return nights_of(db)


def nights_of(db: duckdb.DuckDBPyConnection) -> list[EncodedNight]:
    """Those in a connection that has the runs."""
    names = "ds, run_id, config, encoder_sha256, is_full, is_protected, keeps_items"
    rows = db.sql(f"select {names} from ({statement_text('views/encode_nights')}) order by ds").fetchall()
    return [EncodedNight(ds, run_id, json.loads(config), *facts) for ds, run_id, config, *facts in rows]


def night_before(
    warehouse: Warehouse, nights: Sequence[EncodedNight], ds: date, settings: Mapping[str, Any]
) -> Nights | None:
    """The nights that one of such settings may stand on; None: it must be a full one."""
    own = next((night for night in nights if night.ds == ds), None)
    if own is not None and own.is_full and own.is_like(settings):
        return None  # so that a night that is done stays so, whatever nights before it are encoded later
    tables = opened_tables(warehouse)
    earlier = [night for night in nights if night.ds < ds]
    while earlier and not (earlier[-1].is_like(settings) and earlier[-1].is_whole(tables)):
        if earlier.pop().is_full:
            return None  # nothing from before it counts any more
    found = nights_until(earlier)
    return found if found and all(night.is_whole(tables) for night in found.nights) else None


def opened_tables(warehouse: Warehouse) -> dict[str, DeltaTable | None]:
    """The tables that nights of personas are in."""
    return {name: warehouse.table(name) for name in ("history_vectors", "persona_vectors")}


def nights_until(nights: Sequence[EncodedNight]) -> Nights | None:
    """The newest of some nights, with those that it stands on; None of none."""
    full = [at for at, night in enumerate(nights) if night.is_full]
    return Nights(nights[full[-1] :]) if full else None


def newest_nights(nights: Sequence[EncodedNight], ds: date, encoder_sha256: str) -> Nights:
    """The nights of the personas that the tasks of `ds` may use.

    Raises:
        InputMissing: if no night up to `ds` was encoded.
        PplugError: if the newest was encoded with another encoder than the plug wants.
    """
    found = nights_until([night for night in nights if night.ds <= ds])
    if found is None:
        raise InputMissing(f"no persona_vectors up to {ds}: run `pplug encode --ds {ds}`")
    if found.last.encoder_sha256 != encoder_sha256:
        there = found.last
        raise PplugError(
            f"persona_vectors ds={there.ds} was built with encoder {there.encoder_sha256[:8]}, but this plug wants "
            f"{encoder_sha256[:8]}: run `pplug encode --ds {there.ds}` with that encoder and precision "
            "(--encoder, --dtype)"
        )
    return found


@dataclass(frozen=True)
class Changes:
    """Which items a night looks at."""

    ds: date
    before: Mapping[str, Any] | None
    """The nights that it stands on, as parameters of queries; None: it looks at every item."""
    kinds: tuple[str, ...] = ()  # kinds of which the encoder reads other texts than in that night

    @property
    def params(self) -> dict[str, Any]:
        """For the queries of changed items."""
        return {"ds": self.ds, "before": self.before and self.before["last_ds"], "kinds": list(self.kinds)}

    def with_tonight(self, encoder_sha256: str) -> dict[str, Any]:
        """The nights that it stands on, and itself."""
        return {"first_ds": self.ds, "encoder_sha256": encoder_sha256, **(self.before or {}), "last_ds": self.ds}


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
