"""The jobs of two nights on real tiny models, each in a folder that holds the warehouse, the plug and the files.

night 1: ingest, encode ─▶ night 2: ingest (new, changed, deleted and bad rows) ─▶ encode ─▶ train ─▶ generate
"""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from one_night import live_paths

from llm_jobs.kinds import load_kinds
from llm_jobs.training import labels
from llm_jobs.training.data import TrainConfig
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig, encode_job
from pipelines.erasure.user_key import KEY_FILE
from pipelines.generate import generate_job
from pipelines.ingest import ingest_histories, ingest_tasks
from pipelines.nights.night import run_night
from pipelines.tables.queries import run_checks
from pipelines.tables.schema import TABLES
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.train import train_job
from pipelines.training_data import PlugChoice

Job = Callable[[Path], None]

NIGHTS = (date(2026, 11, 1), date(2026, 11, 2))
CHOICES = ["red", "blue", "green"]
KINDS = load_kinds(
    {
        "note": {
            "metric": "accuracy",
            "query_marker": "note:",
            "prompt": "Tag? {choices} note: {text}",
            "choices": CHOICES,
        }
    }
)
USERS = [f"user{number:02}" for number in range(16)]
WORDS = ["boat", "sea", "pear", "apple", "grass", "moss", "rain", "sun", "wind", "stone"]

BUCKET = "bucket.json"
"""Names the bucket that a job's warehouse is in, where it is in one."""

ROW_KEYS = {
    "histories": "ds, user_id, kind, item_id",
    "history_vectors": "ds, user_id, kind, item_id",
    "persona_vectors": "ds, user_id",
    "tasks": "ds, task_id",
    "outputs": "ds, task_id",
    "rejects": "ds, job, source, row_id",
}
"""What a row of each table is known by."""


def item(user: str, number: int, **changes: object) -> dict[str, Any]:
    """A line of a histories file."""
    seed = int(user[4:]) * 31 + number * 7
    text = " ".join(WORDS[(seed + 3 * at) % len(WORDS)] for at in range(2 + seed % 5))
    posted = datetime(2026, 10, 1, tzinfo=UTC) + timedelta(hours=seed % 700)  # all before the first night
    row = {"user_id": user, "item_id": f"i{number}", "kind": "note", "posted_at": posted.isoformat()}
    return row | {"text": text, "output": CHOICES[seed % 3]} | changes


def night_items(night: int) -> Iterator[dict[str, Any]]:
    """The histories file of a night; the second changes, deletes and adds, and has rows that must be refused."""
    if night == 0:  # one user alone is more than a shard
        yield from (item("user99", number, output=None) for number in range(80))
    for at, user in enumerate(USERS):
        if night == 0:
            yield from (item(user, number) for number in range(2 + at % 6))
        elif at % 2:
            yield item(user, 90)
            yield item(user, 0, text=f"changed by {user}")
            yield item(user, 1, deleted=True)
            yield item(user, 91, text="" if at % 4 == 1 else "late", posted_at="2020-01-01")


def night_tasks() -> Iterator[dict[str, Any]]:
    """The tasks file of the second night: some users have no history, and one task no plug."""
    for at, user in enumerate([*USERS, "user99", "stranger"]):
        kind = "note" if at != 3 else "LaMP_4"
        row = {"task_id": f"t{at}", "user_id": user, "kind": kind, "queued_at": "2026-11-02"}
        yield row | {"input": f"Tag? red, blue, green note: {WORDS[at % 10]}", "choices": CHOICES, "reference": "red"}


def write_inputs(files: Path) -> None:
    """The files to ingest."""
    for name, rows in (("0", night_items(0)), ("1", night_items(1)), ("tasks", night_tasks())):
        (files / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")


def warehouse(folder: Path) -> Warehouse:
    """The tables in a job's folder, or in the bucket that a file there names."""
    if (folder / BUCKET).exists():
        named = json.loads((folder / BUCKET).read_text(encoding="utf8"))
        return Warehouse(named["uri"], named["options"])
    return Warehouse(folder / "warehouse")


def encoder_of(folder: Path) -> EncodeConfig:
    """Small shards, so that a night has several, and so few vectors that those of many users are merged."""
    return EncodeConfig(encoder=str(folder.parent / "bert"), dtype="float32", max_vectors=4, shard_items=40)


def models_of(folder: Path) -> GenerateConfig:
    """The tiny models beside the folder."""
    models = {"llm": str(folder.parent / "llama"), "encoder": str(folder.parent / "bert")}
    return GenerateConfig(**models, llm_dtype="float32", dtype="float32", shard_tasks=6)


def first_night(folder: Path) -> None:
    """What was there before."""
    ingest_histories(warehouse(folder), [folder.parent / "0.jsonl"], NIGHTS[0], KINDS)
    run_night(encode_job(encoder_of(folder), KINDS), warehouse(folder), NIGHTS[0])


def ingest(folder: Path) -> None:
    """`pplug ingest histories` and `pplug ingest tasks`."""
    ingest_histories(warehouse(folder), [folder.parent / "1.jsonl"], NIGHTS[1], KINDS)
    ingest_tasks(warehouse(folder), [folder.parent / "tasks.jsonl"], NIGHTS[1], KINDS)


def encode(folder: Path, night: date = NIGHTS[1]) -> None:
    """`pplug encode`."""
    run_night(encode_job(encoder_of(folder), KINDS), warehouse(folder), night)


def train(folder: Path) -> None:
    """`pplug train`, in 20 steps and not 800, which are all alike."""
    labels.STEPS = 20
    config = TrainConfig(epochs=2, batch_size=32, held_out=0.3)
    train_job(warehouse(folder), folder / "plug", PlugChoice("note", NIGHTS[1]), models_of(folder), config, KINDS)


def generate(folder: Path) -> None:
    """`pplug generate`."""
    run_night(generate_job([folder / "plug"], models_of(folder), KINDS), warehouse(folder), NIGHTS[1])


JOBS: tuple[Job, ...] = (ingest, encode, train, generate)
"""The second night, in order."""


def rows_of(folder: Path) -> dict[str, pd.DataFrame]:
    """Every table but `runs`, without the run that wrote a row; the runs that were finished, and what all cost."""
    done = "select distinct job, ds, rows_in, rows_out, rows_rejected from runs where status = 'done' order by all"
    cost = "select job, ds, sum(tokens)::bigint as tokens from runs where job in ('encode', 'generate') group by all"
    with connect(warehouse(folder)) as db:
        found = {name: db.sql(f"from {name} order by {keys}").to_arrow_table() for name, keys in ROW_KEYS.items()}
        found["runs"] = db.sql(done).to_arrow_table()
        found["tokens"] = db.sql(f"{cost} order by all").to_arrow_table()
    rows = {name: pd.DataFrame(table.to_pylist(), columns=table.column_names) for name, table in found.items()}
    return {name: table.drop(columns="run_id", errors="ignore") for name, table in rows.items()}


@cache
def undisturbed_rows(folder: Path) -> dict[str, pd.DataFrame]:
    """The same of a folder that no job changes any more."""
    return rows_of(folder)


def personas_of(folder: Path) -> pd.DataFrame:
    """The personas as of the newest night, without the run that wrote them."""
    with connect(warehouse(folder)) as db:
        table = db.sql("select * exclude (run_id) from personas order by user_id").to_arrow_table()
    return pd.DataFrame(table.to_pylist(), columns=table.column_names)


def broken_promises(folder: Path) -> list[str]:
    """Names of the failed checks of sql/checks."""
    with connect(warehouse(folder)) as db:
        return [name for name, rows in run_checks(db, None).items() if rows.num_rows]


def assert_equal_tables(ours: pd.DataFrame, theirs: pd.DataFrame, name: str) -> None:
    """Equal apart from floats, which may differ by 1e-5."""
    pd.testing.assert_frame_equal(ours, theirs, check_exact=False, rtol=0, atol=1e-5, obj=name)


def stray_files(folder: Path) -> list[Path]:
    """Whatever lies in a job's warehouse beside the tables: there is nothing that the next run could still need.

    A table is the files that Delta names, in whatever version, and its log: commits and checkpoints.
    """
    tables, root = warehouse(folder), warehouse(folder).root.absolute()
    needed = {root / KEY_FILE}
    for name in TABLES:
        log = (root / name / "_delta_log").glob("*")
        needed |= {path for path in log if path.suffix in (".json", ".parquet") or path.name == "_last_checkpoint"}
        newest = tables.versions([name]).get(name, -1)
        needed |= {path for version in range(newest + 1) for path in live_paths(tables, name, version)}
    files = {path for path in root.rglob("*") if path.is_file()}
    return sorted((files - needed) | {*root.glob("_staging/*"), *root.glob("_shards/*/*")})


def assert_same_nights(ours: Path, theirs: Path) -> None:
    """The tables of undisturbed nights, none with a broken promise, equal plugs, and nothing else on disk."""
    left, right = rows_of(ours), undisturbed_rows(theirs)
    for name in right:
        assert_equal_tables(left[name], right[name], name)
    assert broken_promises(ours) == []
    assert (stray := stray_files(ours)) == [], stray
    assert plug_files(ours) == plug_files(theirs)


def assert_whole_nights(killed: Path, before: Path, after: Path) -> None:
    """Each table is as it was or as it shall be, nothing in between."""
    now, was, shall_be = rows_of(killed), undisturbed_rows(before), undisturbed_rows(after)
    for name in ROW_KEYS:
        if len(now[name]) != len(was[name]) or not now[name].equals(was[name]):
            assert_equal_tables(now[name], shall_be[name], f"{name} after the kill")


def plug_files(folder: Path) -> dict[str, Any]:
    """Content of each file of the plug, but the time it took; none before it is trained."""
    plug = folder / "plug"
    found: dict[str, Any] = {
        f"{path.relative_to(plug)}": path.read_bytes() for path in plug.rglob("*") if path.is_file()
    }
    if report := found.pop("training.json", None):
        told = json.loads(report) | {"seconds": 0, "key_check": ""}  # which differ between two runs or warehouses
        found["training.json"] = told | {"user_hmac_sha256": len(told["user_hmac_sha256"])}
    return found
