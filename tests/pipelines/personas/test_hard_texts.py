"""The first job on texts that no one would write and some user has."""

import json
from pathlib import Path

import numpy as np
from one_night import encode_night
from small_night import NIGHT, item

from embedder.devices import has_bfloat16
from llm_jobs.kinds import Kind
from pipelines.encode import EncodeConfig
from pipelines.ingest import ingest_histories
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

HARD = {
    "empty": "",
    "space": " \t\n",
    "one token": "a",
    "100 KB": "word " * 20_000,
    "100 KB without a space": "a" * 100_000,
    "emoji": "😀👩‍👩‍👧🇩🇪",
    "control characters": "\x00\x01\x1b[0m\x7f\u202e\ufeff",
    "not a character": "\ufffe\U0010ffff",
    "joined surrogates": "\ud83d\ude00",
    "half a surrogate pair": "ok \ud800 end",
}
REFUSED = {"empty": "empty_text", "space": "empty_text", "half a surrogate pair": "not_utf8"}


def test_each_hard_text_is_a_finite_unit_vector_or_a_reject(
    tmp_path: Path, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    file = tmp_path / "hard.jsonl"
    rows = [item("ann", 0, text, None) | {"item_id": name} for name, text in HARD.items()]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="ascii")
    warehouse = Warehouse(tmp_path / "w")
    ingested = ingest_histories(warehouse, [file], NIGHT, kinds)
    record = encode_night(warehouse, NIGHT, encode_config, kinds)
    assert ingested.rows_in == len(HARD)
    assert (ingested.rows_out, record.rows_in, record.rows_out) == (len(HARD) - len(REFUSED),) * 3
    with connect(warehouse) as db:
        found = db.sql("select item_id, vector, vector_scale from history_vectors").fetchall()
        reasons = [row[0] for row in db.sql("select reason from rejects").fetchall()]
    assert sorted(reasons) == sorted(REFUSED.values())
    assert {row[0] for row in found} == HARD.keys() - REFUSED.keys()
    norms = [scale * np.linalg.norm(codes) for _, codes, scale in found]
    np.testing.assert_allclose(norms, 1, atol=0.01)


def test_the_run_says_how_the_vectors_were_computed(
    tmp_path: Path, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps(item("ann", 0, "apples", "red")))
    warehouse = Warehouse(tmp_path / "w")
    ingest_histories(warehouse, [file], NIGHT, kinds)
    for dtype in ("float32", "bfloat16"):
        config = EncodeConfig(encode_config.encoder, dtype=dtype)
        encode_night(warehouse, NIGHT, config, kinds, rebuild=True)
    with connect(warehouse) as db:
        found = db.sql("select config from runs where job = 'encode' order by started_at").fetchall()
    kernels = [json.loads(config)["kernel"].split()[-1] for (config,) in found]
    assert kernels == ["float32", "bfloat16" if has_bfloat16() else "float32"]
