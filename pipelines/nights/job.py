"""What the two nightly jobs are to everything that plans, runs and publishes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, ClassVar, Protocol

import duckdb
import pyarrow as pa

from pipelines.nights.plans import Plan
from pipelines.nights.published import NightInputs
from pipelines.nights.shards import Shard, ShardLog
from pipelines.store.leases import Lease
from pipelines.tables.warehouse import Warehouse


@dataclass(frozen=True)
class Made:
    """What became of a shard's rows: each is in a table of the job, or in `rejects`, exactly once."""

    tables: Mapping[str, pa.Table]
    rows_out: int
    tokens: int
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Whatever else the job counts, for its run record."""


@dataclass(frozen=True)
class Night:
    """What every worker needs to know of a night; it is pickled to each of them, so it holds no model."""

    job: "NightJob"
    warehouse: Warehouse
    ds: date
    run_id: str
    log: ShardLog
    lease: Lease
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the driver found out for the workers, such as the fingerprints that their models must have."""


class NightJob(Protocol):
    """A job that replaces one night of its tables, shard by shard; an object of settings, the same in every process."""

    name: ClassVar[str]
    """Its name in `runs`."""
    unit: ClassVar[str]
    """What its rows are called."""
    reads: ClassVar[Sequence[str]]
    """The tables it is made from."""
    writes: ClassVar[Sequence[str]]
    """The tables of which it replaces a night, in the order of their commits."""

    @property
    def shard_rows(self) -> int:
        """Most rows of a shard: a unit of work, of memory and of resuming."""
        ...

    @property
    def takes_parts(self) -> bool:
        """Whether it also does parts of a user who has more rows than a shard takes, and what needs all of them."""
        ...

    @property
    def force(self) -> bool:
        """Compute everything anew."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its run record says of it."""
        ...

    def decided(self, warehouse: Warehouse) -> "NightJob":
        """Decide what the settings leave open, before anything is read."""
        ...

    def inputs(self, warehouse: Warehouse, ds: date) -> NightInputs:
        """Pin what a night depends on; the driver calls it."""
        ...

    def require(self, inputs: NightInputs) -> None:
        """Refuse a night that cannot be done, before any worker begins."""
        ...

    def row_counts(self, db: duckdb.DuckDBPyConnection, inputs: NightInputs) -> duckdb.DuckDBPyRelation:
        """Count the rows of each user, in the order of the ids: user_id, count, and a weight if it is not the count."""
        ...

    def load(self, facts: Mapping[str, Any]) -> Any:
        """Load the models, in a worker, and refuse others than the driver planned with."""
        ...

    def read(self, night: Night, shard: Shard, db: duckdb.DuckDBPyConnection) -> Any:
        """Read a shard's rows; `db` has views of the shard's files."""
        ...

    def compute(self, night: Night, rows: Any, models: Any) -> Any:
        """Run the models over a shard's rows."""
        ...

    def shape(self, night: Night, results: Any) -> Made:
        """Make rows of tables from what was computed."""
        ...

    def warn(self, inputs: NightInputs, counts: Mapping[str, int]) -> None:
        """Tell of what a published night counts, where somebody should know."""
        ...

    def estimate(self, inputs: NightInputs, shards: Sequence[Shard], planned: set[int] | None = None) -> Plan:
        """Say what a night would cost, for `--dry-run`; `planned` is what nights before it will have done by then."""
        ...
