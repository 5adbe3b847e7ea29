"""A disk that is full or read-only, and inputs that vanish: one clear line, and the old night is still there."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from one_night import encode_night, live_paths
from small_night import ITEMS, NIGHT, item

from embedder.errors import PplugError
from llm_jobs.kinds import Kind
from pipelines.encode import EncodeConfig
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

Fill = Callable[..., Warehouse]

RUN = """
import json, resource, sys
from datetime import date
from pathlib import Path
from llm_jobs.kinds import load_kinds
from pipelines.command.boundary import told_line
from pipelines.encode import EncodeConfig, encode_job
from pipelines.nights.night import run_night
from pipelines.tables.warehouse import Warehouse

root, encoder, most_bytes = sys.argv[1:]
if int(most_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most_bytes), -1))
sys.path.insert(0, "tests/pipelines")
from small_night import NIGHT, NOTE
try:
    job = encode_job(EncodeConfig(encoder=encoder, max_vectors=8), load_kinds({"note": NOTE}))
    run_night(job, Warehouse(Path(root)), NIGHT)
except Exception as error:
    print("error:", told_line(error))
"""
"""A run in a process of its own, whose files may have so many bytes and no more (0: as many as they like)."""


def encode_elsewhere(root: Path, config: EncodeConfig, most_bytes: int, before: Sequence[str] = ()) -> str:
    """The error line of such a run."""
    command = [*before, sys.executable, "-c", RUN, str(root), config.encoder, str(most_bytes)]
    where = Path(__file__).parent.parent.parent
    found = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=where, env=os.environ | {"PYTHONPATH": str(where)}
    )
    lines = [line for line in found.stdout.splitlines() if line.startswith("error: ")]
    assert lines, found.stderr
    return lines[0].removeprefix("error: ")


def persona_counts(warehouse: Warehouse) -> list[tuple[str, int]]:
    with connect(warehouse) as db:
        return db.sql("select user_id, item_count from personas order by 1").fetchall()


def files_outside_tables(warehouse: Warehouse) -> list[str]:
    return [str(path) for path in warehouse.root.glob("_*/**/*") if path.is_file()]


def test_a_full_disk_leaves_the_old_night_and_the_next_run_leaves_no_trace_of_it(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    before = persona_counts(warehouse)
    fill([item("new", at, f"a word {at}", "red") for at in range(40)])
    said = encode_elsewhere(warehouse.root, encode_config, 6_000)
    assert "no space left on the disk of" in said
    assert said.endswith("free some and run the command again")
    assert persona_counts(warehouse) == before
    encode_night(warehouse, NIGHT, encode_config, kinds)
    assert persona_counts(warehouse) == sorted([*before, ("new", 40)])
    assert files_outside_tables(warehouse) == []


def test_a_read_only_warehouse_is_told_and_unharmed(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    before = persona_counts(warehouse)
    root = warehouse.root
    mount = f"mount --bind {root} {root} && mount -o remount,ro,bind {root}"
    alone = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    try:
        possible = subprocess.run([*alone, mount], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("this machine does not let us mount a folder")
    said = encode_elsewhere(root, encode_config, 0, [*alone, f'{mount} && exec "$@"', "sh"])
    assert "cannot be written (Read-only file system): choose another --warehouse" in said
    assert persona_counts(warehouse) == before


def test_an_input_that_vanished_is_named(fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    before = persona_counts(warehouse)
    fill([item("new", 0, "a word", "red")])
    (gone, *_) = live_paths(warehouse, "histories")
    held = gone.read_bytes()
    gone.unlink()
    with pytest.raises(PplugError, match=gone.name):
        encode_night(warehouse, NIGHT, encode_config, kinds)
    gone.write_bytes(held)
    assert persona_counts(warehouse) == before
    encode_night(warehouse, NIGHT, encode_config, kinds)
    assert persona_counts(warehouse) == sorted([*before, ("new", 1)])
