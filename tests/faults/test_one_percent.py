"""A night with few new items costs as little."""

import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from night_jobs import KINDS, item
from one_night import encode_night
from tiny_models import save_model, tiny_bert

from pipelines.encode import EncodeConfig
from pipelines.ingest import ingest_histories
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

FIRST = date(2026, 11, 1)
ITEMS = 1_000


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_a_night_with_1_percent_new_items_runs_at_most_3_percent_of_the_tokens(share: float, tmp_path: Path) -> None:
    encoder = EncodeConfig(str(save_model(tmp_path / "bert", tiny_bert(3), is_chat=False)), shard_items=300)
    warehouse, new = Warehouse(tmp_path / "warehouse"), round(share * ITEMS)
    for night, numbers in enumerate((range(ITEMS), range(ITEMS, ITEMS + new))):
        rows = [
            item(f"user{at % 37:02}", at, text=f"the text of item {at:04}", posted_at="2026-10-01") for at in numbers
        ]
        file = tmp_path / f"{night}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
        ds = FIRST + timedelta(days=night)
        ingest_histories(warehouse, [file], ds, KINDS)
        encode_night(warehouse, ds, encoder, KINDS)
    with connect(warehouse) as db:
        nights = db.sql("select tokens, rows_out from runs where job = 'encode' order by ds").fetchall()
        asked = "select count(*), sum(item_count) from personas_at(date '{}')"
        users = [db.sql(asked.format(FIRST + timedelta(days=night))).fetchall()[0] for night in range(2)]
    (full, first_rows), (few, second_rows) = nights
    assert full >= 5 * ITEMS
    assert (first_rows, second_rows) == (ITEMS, new)
    assert users == [(37, ITEMS), (37, ITEMS + new)]
    assert (few > 0) == (new > 0)
    assert few <= 0.03 * full
