"""What cannot be read twice or backwards: pipes and standard input."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingesting import HISTORY, KINDS, NIGHT, item, items

from pipelines.ingest import ingest_histories
from pipelines.tables.warehouse import Warehouse

LINES = b"\n".join(json.dumps(item(f"{number}")).encode() for number in range(3))


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


def packed_rows(path: Path) -> bytes:
    pq.write_table(pa.table({name: [value] for name, value in HISTORY.items()}), path)
    return path.read_bytes()


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_pipe_is_read_once(form: str, warehouse: Warehouse, tmp_path: Path) -> None:
    content = LINES if form == "jsonl" else packed_rows(tmp_path / "p")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(content))
    writer.start()
    result = ingest_histories(warehouse, [tmp_path / "pipe"], NIGHT, KINDS)
    writer.join()
    assert (result.rows_in, result.rows_rejected) == (3 if form == "jsonl" else 1, 0)


@pytest.mark.parametrize("source", ["-", "/dev/stdin", "/dev/fd/0"])
def test_standard_input_is_read(source: str, tmp_path: Path) -> None:
    words = ["ingest", "histories", source, "--ds", "2026-11-20", "--warehouse", str(tmp_path / "w")]
    call = [sys.executable, "-c", "import sys; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))", *words]
    done = subprocess.run(call, input=LINES, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(items(Warehouse(tmp_path / "w"))) == 3
