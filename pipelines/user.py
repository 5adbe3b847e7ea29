"""What is known of one user: themes of the persona, who is alike, every answer; and all rows, for an access request."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np

from embedder.compact import CompactVectors
from embedder.errors import InputMissing, PplugError
from embedder.personas import k_means
from pipelines.command.cells import plain
from pipelines.personas.asked import seeing_only
from pipelines.tables import Row
from pipelines.tables.queries import run_query
from pipelines.tables.schema import TABLES
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

THEMES: Final = 5  # most themes of a persona
TYPICAL: Final = 2  # texts that stand for a theme
NIGHTS: Final = 7  # nights of which it is told how the persona moved
ALIKE: Final = 5  # users that are named as alike

OTHERS: Final = 1_999
"""Users, the same ones in every run, among whom these are looked for: `pplug query similar_users` asks all."""


@dataclass(frozen=True)
class UserFacts:
    """What is known of a user."""

    themes: Sequence[Row]
    moved: Sequence[Row]  # the nights that changed the persona, and its cosine to the one before
    alike: Sequence[Row]
    tasks: Sequence[Row]


def user_facts(warehouse: Warehouse, user_id: str) -> UserFacts:
    """Look a user up; raises InputMissing if nothing of the user is there."""
    of_user = {"user_id": user_id}
    with connect(warehouse) as db:
        with seeing_only(db, [user_id]):
            items = run_query(db, "user_persona", of_user).to_pylist()
            vectors = _vectors(db, user_id) if items else np.zeros((0, 1), np.float32)
            moved = _moved(db, user_id)
        with seeing_only(db, [user_id, *_others(db)]):
            alike = run_query(db, "similar_users", of_user | {"limit": str(ALIKE)}).to_pylist()
        tasks = run_query(db, "user_tasks", of_user | {"limit": "1000"}).to_pylist()
        if not items and not tasks and not _rows(db, "histories", user_id):
            raise InputMissing("nothing of this user is there: run `pplug sql 'select user_id from histories'`")
    return UserFacts(themes(items, vectors), moved, alike, tasks)


def themes(items: Sequence[Row], vectors: Any) -> list[Row]:
    """The persona as a handful of themes, the largest first.

    Args:
        items: of the query `user_persona`.
        vectors: (n, D) of the persona; `vector_number` of an item counts them from 1.
    """
    if not items:
        return []
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    groups = k_means(CompactVectors.of(unit), np.ones(len(unit), np.int64), THEMES)
    nearest = np.unique(groups, return_inverse=True)[1]
    likeness = unit @ np.stack([unit[nearest == at].mean(0) for at in range(nearest.max() + 1)]).T
    total = sum(item["item_count"] for item in items)
    found: list[Row] = []
    for at in range(likeness.shape[1]):
        mine = [item for item in items if nearest[item["vector_number"] - 1] == at]
        if not mine:
            continue
        mine.sort(key=lambda item: -likeness[item["vector_number"] - 1, at])
        count = sum(item["item_count"] for item in mine)
        texts = [str(item["text"]) for item in mine[:TYPICAL] if item["text"]]
        labels = [item["output"] for item in mine if item["output"]]
        common = max(labels, key=labels.count, default=None)  # of several the one of the most typical text
        found.append({"items": count, "share": count / total, "often": common, "typical texts": "\n".join(texts)})
    return sorted(found, key=lambda row: -row["items"])


def export_user(warehouse: Warehouse, user_id: str, path: Path) -> int:
    """Write every row of a user, table by table, as JSON: what an access request asks for.

    Returns:
        The number of rows.

    Raises:
        PplugError: if the file cannot be written.
    """
    with connect(warehouse) as db:
        tables = {name: _rows(db, name, user_id) for name, schema in TABLES.items() if "user_id" in schema.names}
    try:
        path.write_text(json.dumps(plain({"user_id": user_id, **tables}), ensure_ascii=False, indent=1) + "\n", "utf8")
    except OSError as error:
        raise PplugError(f"{path} cannot be written ({error.strerror}): name another file with --export") from error
    return sum(map(len, tables.values()))


def _rows(db: duckdb.DuckDBPyConnection, table: str, user_id: str) -> list[Row]:
    return db.sql(f"from {table} where user_id = $user_id", params={"user_id": user_id}).to_arrow_table().to_pylist()


def _others(db: duckdb.DuckDBPyConnection) -> list[str]:
    users = "select distinct user_id from history_vectors"
    chosen = db.execute(f"from ({users}) order by hash(user_id), user_id limit $most", {"most": OTHERS})
    return [row[0] for row in chosen.fetchall()]


def _moved(db: duckdb.DuckDBPyConnection, user_id: str) -> list[Row]:
    """The last nights that wrote something of the user, and how near the persona stayed to that of the one before."""
    wrote = "select ds from history_vectors union select ds from persona_vectors order by ds"
    nights = [row[0] for row in db.sql(wrote).fetchall()][-NIGHTS - 1 :]
    found: list[Row] = []
    before: Any = None
    for ds in nights:
        rows = db.sql("select persona, item_count from personas_at($ds)", params={"ds": ds}).fetchall()
        persona, count = (np.array(rows[0][0]), rows[0][1]) if rows else (None, 0)
        near = None if before is None or persona is None or len(before) != len(persona) else float(before @ persona)
        found.append({"night": ds, "items": count, "cosine to the one before": near})
        before = persona
    return found[-NIGHTS:]


def _vectors(db: duckdb.DuckDBPyConnection, user_id: str) -> Any:
    """The vectors of the user's newest persona; they are unit vectors apart from their scale."""
    (newest,) = _rows(db, "personas", user_id)
    return np.array(newest["vectors"], np.float32)
