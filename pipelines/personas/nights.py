"""The nights that were encoded, and on which of them a new one stands.

    runs ─▶ nights published before, the newest first ─▶ the first with the same settings that nobody wrote to since

A night that stands on another reads what was ingested since and writes what differs. A full night reads everything, and
nothing that was written before it counts any more.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb
from deltalake import DeltaTable

from embedder.errors import InputMissing, PplugError
from pipelines.tables.data_files import DataFile
from pipelines.tables.sql_files import statement_text
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

PINNED = ("histories", "deletions")
"""Tables whose versions a night notes, so that the next one knows what came since."""


@dataclass(frozen=True)
class EncodedNight:
    """A night that `encode` published."""

    ds: date
    run_id: str
    config: Mapping[str, Any]

    @property
    def encoder_sha256(self) -> str:
        """Of the encoder that made its vectors."""
        return self.config["encoder_sha256"]

    @property
    def is_full(self) -> bool:
        """Whether it stands on no other night."""
        return self.config["is_full"]

    @property
    def is_protected(self) -> bool:
        """Whether its vectors keep something to themselves; see protection.py."""
        return "key_check" in self.config.get("protection", {})

    @property
    def keeps_items(self) -> bool:
        """Whether its items have vectors of their own."""
        stored = self.config.get("protection", {"item_vectors": True, "min_items": 1})
        return stored["item_vectors"] and stored["min_items"] == 1

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

    nights: Sequence[EncodedNight]
    """The oldest, which is full, first."""

    @property
    def last(self) -> EncodedNight:
        """The newest."""
        return self.nights[-1]

    def require_whole(self, warehouse: Warehouse) -> None:
        """Refuse personas of which a part is gone.

        Raises:
            PplugError: if one of the nights is not as it was published.
        """
        tables = opened_tables(warehouse)
        for night in self.nights:
            if not night.is_whole(tables):
                told = f"persona_vectors ds={night.ds} are not as their run published them"
                raise PplugError(f"{told}: run `pplug encode --ds {night.ds}`")

    @property
    def run_ids(self) -> list[str]:
        """Of all: equal ones are equal personas."""
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
    rows = db.sql(f"select ds, run_id, config from ({statement_text('views/encode_nights')}) order by ds").fetchall()
    return [EncodedNight(ds, run_id, json.loads(config)) for ds, run_id, config in rows]


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
            f"{encoder_sha256[:8]}: run `pplug encode --ds {there.ds}` with that encoder"
        )
    return found
