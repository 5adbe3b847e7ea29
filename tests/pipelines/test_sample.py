import json
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import pytest

from llm_jobs.kinds import load_kinds
from pipelines.ingest import ingest_histories, ingest_tasks
from pipelines.sample import CATEGORIES, NEWS, NIGHT, STYLES, SampleConfig, users, write_sample
from pipelines.tables.warehouse import Warehouse

CONFIG = SampleConfig()
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_sample(tmp_path_factory.mktemp("sample"), CONFIG)


@pytest.fixture(scope="module")
def rows(files: tuple[Path, Path]) -> tuple[Rows, Rows]:
    histories, tasks = ([json.loads(line) for line in path.read_text(encoding="utf8").splitlines()] for path in files)
    return histories, tasks


def is_neutral(text: str) -> bool:
    """Whether an article names nothing of any category."""
    return not any(name in text.lower() for words in CATEGORIES.values() for name in (*words.who, *words.what))


def test_the_same_settings_give_the_same_bytes(files: tuple[Path, Path], tmp_path: Path) -> None:
    again = write_sample(tmp_path / "again", CONFIG)
    other = write_sample(tmp_path / "other", replace(CONFIG, seed=1))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files]
    assert [path.read_bytes() for path in other] != [path.read_bytes() for path in files]


def test_every_row_is_ingested(files: tuple[Path, Path], tmp_path: Path) -> None:
    warehouse, kinds = Warehouse(tmp_path / "warehouse"), load_kinds()
    items = ingest_histories(warehouse, [files[0]], NIGHT, kinds)
    tasks = ingest_tasks(warehouse, [files[1]], NIGHT, kinds)
    assert (items.rows_rejected, tasks.rows_rejected) == (0, 0)
    assert items.changed == (CONFIG.users - CONFIG.users_without_history) * (CONFIG.news + CONFIG.headlines)
    assert tasks.changed == CONFIG.users * CONFIG.tasks


def test_tasks_are_newer_than_all_items_and_stand_in_no_history(rows: tuple[Rows, Rows]) -> None:
    histories, tasks = rows
    night = datetime.combine(NIGHT, time(), UTC)
    assert all(datetime.fromisoformat(row["posted_at"]) < night for row in histories)
    assert all(datetime.fromisoformat(row["queued_at"]) >= night for row in tasks)
    of_user = defaultdict[str, set[str]](set)
    for row in histories:
        of_user[row["user_id"]].add(row["text"])
    kind = load_kinds()[NEWS]
    assert not any(kind.query(row["input"]) in of_user[row["user_id"]] for row in tasks)


def test_some_users_have_tasks_but_no_history(rows: tuple[Rows, Rows]) -> None:
    histories, tasks = rows
    without = {row["user_id"] for row in tasks} - {row["user_id"] for row in histories}
    assert len(without) == CONFIG.users_without_history


def test_the_text_of_most_tasks_does_not_tell_the_category(rows: tuple[Rows, Rows]) -> None:
    neutral = [row for row in rows[1] if is_neutral(row["input"].partition("] article:")[2])]
    assert len(neutral) == CONFIG.users * (CONFIG.tasks - 1)
    for is_figures in (False, True):
        references = Counter(row["reference"] for row in neutral if ("percent" in row["input"]) is is_figures)
        assert set(references) == set(CATEGORIES)
        assert references.most_common(1)[0][1] < 0.3 * references.total()  # the best guess from the text alone


def test_the_history_tells_the_category(rows: tuple[Rows, Rows]) -> None:
    """Ten lines that read a user's history answer every task right: the sample can be learned."""
    kind = load_kinds()[NEWS]
    filed = defaultdict[tuple[str, bool], Counter[str]](Counter)
    for row in rows[0]:
        if row["kind"] == NEWS:
            filed[row["user_id"], "percent" in row["text"]][row["output"]] += 1
    known = [row for row in rows[1] if any(user == row["user_id"] for user, _ in filed)]
    right = 0
    for row in known:
        beat = filed[row["user_id"], "percent" in (kind.query(row["input"]) or "")].most_common(1)
        right += bool(beat) and beat[0][0] == row["reference"]
    assert right > 0.97 * len(known)


def test_users_differ_in_interest_and_wording() -> None:
    everybody = users(CONFIG)
    beats = Counter(beat for user in everybody for beat in user.beats)
    assert set(beats) == set(CATEGORIES)
    assert max(beats.values()) <= 1.5 * min(beats.values())
    assert all(first != second for first, second in (user.beats for user in everybody))
    assert set(Counter(user.style for user in everybody).values()) == {CONFIG.users // len(STYLES)}
    assert len({(user.beats, user.style) for user in everybody}) > 0.9 * len(everybody)
