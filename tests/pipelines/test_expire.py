from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingesting import rows
from one_night import encode_night, live_paths
from small_night import ITEMS, NIGHT, item

from embedder.errors import PplugError
from llm_jobs.kinds import Kind
from pipelines.encode import EncodeConfig
from pipelines.expire import EXPIRING, expire_nights, first_kept
from pipelines.nights.runs import recorded_run
from pipelines.tables.parquet import write_shard
from pipelines.tables.schema import TABLES, file_schema
from pipelines.tables.warehouse import Warehouse

DAYS = [NIGHT + timedelta(days=number) for number in range(6)]

nights = st.sets(st.dates(date(2026, 1, 1), date(2026, 1, 20)))


def blank(name: str) -> pa.Table:
    """A row of any table that says nothing."""
    fields = file_schema(name)
    blanks = {pa.string(): "", pa.int32(): 1, pa.int64(): 1, pa.float32(): 1.0, pa.bool_(): False}
    values = {
        field.name: []
        if pa.types.is_list(field.type)
        else None
        if field.nullable
        else blanks.get(field.type, datetime(2026, 11, 2, tzinfo=UTC))
        for field in fields
    }
    return pa.Table.from_pylist([values], schema=fields)


def write_nights(warehouse: Warehouse, name: str, *days: date) -> None:
    """A row in each of some nights."""
    for day in days:
        shard = warehouse.root / f"{name}-{day}"
        write_shard(shard, blank(name))
        warehouse.publish(name, day, "r", [shard])
        shard.unlink()


def nights_of(warehouse: Warehouse, name: str) -> list[date]:
    return [ds for (ds,) in rows(warehouse, f"select ds from {name} order by ds")]


def files_of(warehouse: Warehouse, *names: str) -> set[Path]:
    return {path for name in names for path in warehouse.folder(name).rglob("*.parquet")}


@given(nights, nights, st.integers(1, 25))
def test_the_newest_nights_stay_and_the_personas_they_need(personas: set[date], answers: set[date], keep: int) -> None:
    first_persona, first = first_kept(personas, answers, keep)
    kept = {night for night in personas | answers if night >= first}
    assert len(kept) == min(keep, len(personas | answers))
    for night in kept:  # what `generate` of that night takes
        needed = max((persona for persona in personas if persona <= night), default=None)
        assert needed is None or needed >= first_persona
    assert first_persona <= first
    assert len({night for night in personas if first_persona <= night < first}) <= 1, "no more than is needed"


def test_old_nights_go_with_their_files_and_the_rest_is_not_touched(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for name in TABLES:
        write_nights(warehouse, name, *DAYS)
    write_nights(warehouse, "outputs", DAYS[5])  # again, which leaves a file that no reader needs
    others = set(TABLES) - set(EXPIRING) - {"runs"}
    before = files_of(warehouse, *others)
    planned = expire_nights(warehouse, 2, dry_run=True)
    assert nights_of(warehouse, "outputs") == DAYS
    found = expire_nights(warehouse, 2, reader_seconds=0)
    assert found == planned
    names = [name for name in EXPIRING if name != "history_vectors"]  # personas are made of them
    assert {(night["table"], night["ds"]) for night in found} == {(name, day) for name in names for day in DAYS[:4]}
    assert all(night["row_count"] == 1 and night["byte_count"] > 0 for night in found)
    for name in names:
        assert nights_of(warehouse, name) == DAYS[4:]
        assert files_of(warehouse, name) == set(live_paths(warehouse, name))
        assert [path.name for path in sorted(warehouse.folder(name).glob("ds=*"))] == [f"ds={day}" for day in DAYS[4:]]
    for name in others:
        assert nights_of(warehouse, name) == DAYS
    assert files_of(warehouse, *others) == before
    assert expire_nights(warehouse, 2, reader_seconds=0) == []
    assert rows(warehouse, "select rows_in, rows_out, config from runs where job = 'expire' order by 1 desc") == [
        (12, 12, '{"keep": 2}'),
        (0, 0, '{"keep": 2}'),
    ]


def test_personas_that_the_oldest_kept_night_answers_with_stay(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    write_nights(warehouse, "persona_vectors", DAYS[0], DAYS[1])
    write_nights(warehouse, "outputs", DAYS[1], DAYS[3], DAYS[4])
    write_nights(warehouse, "rejects", DAYS[0], DAYS[5])  # a night of refused rows alone is none
    expire_nights(warehouse, 2, reader_seconds=0)
    assert nights_of(warehouse, "persona_vectors") == [DAYS[1]]
    assert nights_of(warehouse, "outputs") == [DAYS[3], DAYS[4]]
    assert nights_of(warehouse, "rejects") == [DAYS[5]]


def test_the_next_night_takes_over_every_vector(
    fill: Callable[..., Warehouse], kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill(ITEMS)
    for day in DAYS[:3]:
        encode_night(warehouse, day, encode_config, kinds)
    before = rows(warehouse, "select * exclude (ds, run_id) from personas order by user_id")
    expire_nights(warehouse, 1, reader_seconds=0)
    assert nights_of(warehouse, "persona_vectors") == [DAYS[0]], "that of ann is part of her persona still"
    assert encode_night(warehouse, DAYS[3], encode_config, kinds).tokens == 0
    assert rows(warehouse, "select * exclude (ds, run_id) from personas order by user_id") == before


def test_a_stored_part_of_a_persona_goes_when_a_kept_night_has_a_newer_one(
    fill: Callable[..., Warehouse], kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse = fill([*ITEMS, *(item("dan", at, f"word {at}", "red", day=40 - at) for at in range(12))])
    encode_night(warehouse, DAYS[0], encode_config, kinds)
    for day in DAYS[1:3]:
        fill([item("ann", 100 + day.day, "late", "blue", day=300)], ds=day)
        encode_night(warehouse, day, encode_config, kinds)
    stored = "select ds, user_id from persona_vectors order by all"
    assert rows(warehouse, stored) == [(DAYS[0], "ann"), (DAYS[0], "dan"), (DAYS[1], "ann"), (DAYS[2], "ann")]
    before = rows(warehouse, "from personas order by user_id")
    assert sum(night["row_count"] for night in expire_nights(warehouse, 1, dry_run=True)) == 2
    expire_nights(warehouse, 1, reader_seconds=0)
    assert rows(warehouse, stored) == [(DAYS[0], "dan"), (DAYS[2], "ann")]
    assert rows(warehouse, "from personas order by user_id") == before


def test_what_a_killed_expiry_left_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = Warehouse(tmp_path)
    write_nights(warehouse, "outputs", *DAYS)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.tables.retention.time.sleep", stop)
        with pytest.raises(KeyboardInterrupt):
            expire_nights(warehouse, 2)
    assert nights_of(warehouse, "outputs") == DAYS[4:]
    assert len(files_of(warehouse, "outputs")) == 6
    expire_nights(warehouse, 2, reader_seconds=0)
    assert len(files_of(warehouse, "outputs")) == 2


def test_nothing_expires_while_a_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.nights.runs.PATIENCE", 0.05)
    warehouse = Warehouse(tmp_path)
    with recorded_run(warehouse, "encode", NIGHT, {}), pytest.raises(PplugError, match="`pplug encode` is running"):
        expire_nights(warehouse, 1)
