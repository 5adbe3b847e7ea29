"""Whoever asks for the personas of few users reads only the row groups that may hold them."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from one_night import encode_night
from small_night import ITEMS, NIGHT

from llm_jobs.kinds import Kind
from pipelines.encode import EncodeConfig
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

ONE, SOME = "(user_id = 'bob')", "(user_id >= 'bob') AND (user_id <= 'cid')"


def filters(plan: dict[str, Any]) -> Iterator[str]:
    """What DuckDB lets Parquet's own statistics decide, of every file with a column of vectors."""
    facts = plan["extra_info"]
    if "PARQUET" in f"{facts.get('Function')}" and {"vector", "vectors"} & {*facts["Projections"]}:
        found = facts.get("Filters", [])
        yield " AND ".join(sorted([found] if isinstance(found, str) else found, reverse=True))
    for child in plan["children"]:
        yield from filters(child)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("personas where user_id = 'bob'", ONE),
        (f"personas_at(date '{NIGHT}') where user_id = 'bob'", ONE),
        (f"personas_between(date '{NIGHT}', 'bob', 'cid')", SOME),
        (f"changed_between(date '{NIGHT}', date '{NIGHT}', null, 'bob', 'cid')", SOME),
    ],
)
def test_a_condition_on_users_reaches_the_files(
    source: str, told: str, fill: Callable[..., Warehouse], kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    with connect(warehouse) as db:
        (plan,) = json.loads(db.sql(f"explain (format json) select persona from {source}").fetchall()[0][1])
    found = list(filters(plan))
    assert found
    assert all(told in one for one in found), found
