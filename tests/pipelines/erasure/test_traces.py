import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from pipelines.erasure.person import Person
from pipelines.erasure.traces import find_traces

ANN = Person("ann")


def found(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_traces(root, ANN)]


@pytest.mark.parametrize(
    ("column", "least", "tells"),
    [("user_id", "ann", True), ("user_id", "ann-2", False), ("user_id", "anna", False), ("text", "rain", True)],
)
def test_ranges_in_a_log_and_in_its_checkpoint_tell(column: str, least: str, tells: bool, tmp_path: Path) -> None:
    """An id as a whole; of a text the log may hold a part, and so nobody can tell that it is not the user's."""
    write_deltalake(tmp_path / "t", pa.table({column: [least, "zoe"]}))  # which keeps ranges of every column
    for path in tmp_path.rglob("*.parquet"):
        path.unlink()
    assert found(tmp_path) == (["t/_delta_log/00000000000000000000.json"] if tells else [])
    DeltaTable(tmp_path / "t").create_checkpoint()
    assert len(found(tmp_path)) == (2 if tells else 0)


def test_the_condition_of_a_deletion_tells(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"user_id": ["bob", "zoe"]}))
    DeltaTable(tmp_path / "t").delete("user_id = 'ann'")
    commits = found(tmp_path)
    assert len(commits) <= 1  # a deletion that finds nothing may not be committed
    write_deltalake(tmp_path / "u", pa.table({"user_id": ["ann", "zoe"]}))
    DeltaTable(tmp_path / "u").delete("user_id = 'ann'")
    assert "u/_delta_log/00000000000000000001.json" in found(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "tells"),
    [
        ("_shards/encode/x/00000.json", {"index": 1, "rows_in": 2}, False),
        ("_shards/encode/x/plan.json", {"shards": [{"first_user": "ann"}]}, True),
        ("_shards/encode/x/plan.json", {"ann": "is the name of a field"}, False),
        ("notes.txt", "for ann", True),
        ("notes.txt", "for bob", False),
        ("broken.parquet", "PAR1", True),
        (".00000.rejects.parquet.f00.tmp", "PAR1", True),
        ("_forgotten.key", "ann", False),
        ("_running/20261101-forget.json", {"job": "ann", "ds": "ann"}, False),
    ],
)
def test_every_other_file_is_searched(name: str, content: object, tells: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf8")
    assert found(tmp_path) == ([name] if tells else [])


def test_links_are_followed_and_may_lead_back(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "w", tmp_path / "elsewhere"
    (elsewhere / "ds=2026-11-01").mkdir(parents=True)
    root.mkdir()
    pq.write_table(pa.table({"user_id": ["ann"]}), elsewhere / "ds=2026-11-01" / "a.parquet")
    (root / "histories").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (root / "lost").symlink_to(tmp_path / "nowhere")
    assert found(root) == ["histories/ds=2026-11-01/a.parquet"]
