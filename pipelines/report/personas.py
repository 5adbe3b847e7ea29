"""What the report tells of personas: how far they moved in each night, and a map on which near ones are alike."""

from collections.abc import Sequence
from datetime import date
from typing import Final

import duckdb
import numpy as np

from pipelines.personas.asked import seeing_only
from pipelines.tables import Row
from pipelines.tables.queries import run_query
from pipelines.tables.views import run_sql

Rows = Sequence[Row]

MOVED: Final = 300  # users of a night whose personas are compared with those of the night before
SHOWN: Final = 1_000  # personas on the map


def drift_and_map(db: duckdb.DuckDBPyConnection, ds: date, night_count: int, *, named: bool) -> tuple[Rows, Rows]:
    """How far personas moved in each of the last nights, and those of the last full night on a map.

    Args:
        db: with the views of the tables and of personas.
        ds: the last night.
        night_count: most nights.
        named: keep the ids of users on the map.
    """
    nights = db.execute("select ds, is_full from encode_nights where ds <= $ds order by ds", {"ds": ds}).fetchall()
    last = [day for day, _ in nights[-night_count:]]
    full = [day for day, is_full in nights if is_full][-1:]
    drift = list[Row]()
    samples = [{"nights": last, "sample": MOVED}, {"nights": full, "sample": SHOWN}]
    found = [run_sql(db, "report/sampled_users", params)["user_id"].to_pylist() for params in samples]
    with seeing_only(db, {user for users in found for user in users}):
        for day in last:
            drift += run_query(db, "drift_summary", {"ds": day.isoformat(), "sample": f"{MOVED}"}).to_pylist()
        rows = run_sql(db, "report/persona_sample", {"ds": ds, "sample": SHOWN}).to_pylist()
    return drift, persona_map(rows, named=named)


def persona_map(rows: Rows, *, named: bool) -> Rows:
    """Personas in two dimensions, near ones near: their first two principal components.

    Args:
        rows: of `persona_sample`.
        named: keep the ids of users.
    """
    if len(rows) < 3:
        return []
    vectors = np.array([row["persona"] for row in rows], np.float32)
    left, sizes, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    places = left[:, :2] * sizes[:2]
    nearest = vectors @ vectors.T - 2 * np.eye(len(rows), dtype=np.float32)
    return [
        {
            "x": round(float(x), 4),
            "y": round(float(y), 4),
            "items": row["item_count"],
            "nearest": round(float(near), 3),
            **({"user": row["user_id"]} if named else {}),
        }
        for (x, y), near, row in zip(places, nearest.max(1), rows, strict=True)
    ]
