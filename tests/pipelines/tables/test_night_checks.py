"""The checks of one night look at what that night brought, however much there was before it."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from one_night import encode_night
from small_night import ITEMS, NIGHT

from llm_jobs.kinds import Kind
from pipelines.encode import EncodeConfig
from pipelines.tables.queries import list_checks
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

CHECKS = {check.name: check for check in list_checks()}


def rows_kept(plan: dict[str, Any]) -> Iterator[int]:
    """How many rows each join and each group of a plan keeps in memory."""
    below = plan.get("children", [])
    if plan["type"].startswith("HASH"):
        yield below[-1]["intermediate_rows"]
    for child in below:
        yield from rows_kept(child)


@pytest.mark.parametrize("name", ["duplicate_history_items", "items_missing_from_personas"])
def test_memory_is_for_the_items_of_the_night(
    name: str, fill: Callable[..., Warehouse], kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    second = NIGHT + timedelta(1)
    warehouse = fill([ITEMS[0] | {"item_id": f"before{at}"} for at in range(40)])
    encode_night(warehouse, NIGHT, encode_config, kinds)
    fill([ITEMS[0] | {"item_id": f"new{at}"} for at in range(3)], ds=second)
    encode_night(warehouse, second, encode_config, kinds)
    with connect(warehouse) as db:
        query = f"explain (analyze, format json) {CHECKS[name].sql}"
        ((_, told),) = db.execute(query, {"ds": second}).fetchall()
    assert max(rows_kept(json.loads(told)["operator"][0])) == 3
