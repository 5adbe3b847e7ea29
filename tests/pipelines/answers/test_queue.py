from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.answers.queue import histories_of, newest_personas
from pipelines.tables.schema import TABLES, file_schema
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

NIGHT = date(2026, 11, 1)
MOMENT = datetime(2026, 10, 1, tzinfo=UTC)


def test_a_persona_of_before_there_was_a_recent_mean_gets_that_of_all_its_items() -> None:
    names = ("vectors", "counts", "recent")
    rows = [
        {"vectors": [[1.0, 0.0], [0.0, 1.0]], "counts": [3, 1], "recent": None},
        {"vectors": [[1.0, 0.0]], "counts": [1], "recent": [0.5, 0.5]},
        {"vectors": None, "counts": None, "recent": None},
    ]
    schema = pa.schema([TABLES["persona_vectors"].field(name).with_nullable(True) for name in names])
    old, new, nobody = histories_of(pa.Table.from_pylist(rows, schema=schema), 2)
    np.testing.assert_allclose(old.recent, [0.75, 0.25])
    np.testing.assert_allclose(new.recent, [0.5, 0.5])
    assert nobody.vectors.shape == (0, 2)
    assert nobody.recent.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("recent", [None, [1.0]])
def test_a_night_without_recent_means_is_told_of(
    tmp_path: Path, recent: list[float] | None, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse = Warehouse(tmp_path)
    row = {"user_id": "ann", "persona": [1.0], "vectors": [[1.0]], "counts": [1], "items": [], "item_count": 1}
    row |= {"first_posted_at": MOMENT, "last_posted_at": MOMENT, "encoder_sha256": "e", "run_id": "r", "recent": recent}
    table = pa.Table.from_pylist([row], schema=file_schema("persona_vectors"))
    warehouse.append("persona_vectors", NIGHT, "r", table)
    with connect(warehouse) as db:
        assert newest_personas(db, NIGHT, "e") == NIGHT
    assert ("`pplug encode --ds 2026-11-01` makes it anew" in caplog.text) == (recent is None)
