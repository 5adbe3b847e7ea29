"""Which times are taken: ISO 8601, times and dates of Parquet, seconds and milliseconds since 1970; nothing else."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingesting import HISTORY, KINDS, NIGHT, item, jsonl, refused, rows

from pipelines.ingest import IngestConfig, ingest_histories
from pipelines.intake.times import Years, read_times
from pipelines.tables.warehouse import Warehouse

MIDNIGHT = datetime(2026, 11, 20)
SECONDS = int(MIDNIGHT.replace(tzinfo=UTC).timestamp())


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


def moments(warehouse: Warehouse) -> list[datetime]:
    return [row[0] for row in rows(warehouse, "select posted_at from histories order by item_id")]


TIMES = [
    "2026-11-20",
    " 2026-11-20 ",
    "2026-11-20T00:00",
    "2026-11-20 00:00:00",
    "2026-11-20T00:00:00Z",
    "2026-11-20 00:00:00 UTC",
    "2026-11-20T01:00:00+01:00",
    "2026-11-20T01:00:00+0100",
    "2026-11-20T01:00:00+01",
    "2026-11-19T19:00:00.000000-05:00",
    "2026-11-20T00:00:00.000000123Z",
    SECONDS,
    SECONDS * 1000,
    float(SECONDS),
    str(SECONDS),
]


def test_a_time_is_read_in_utc(warehouse: Warehouse, tmp_path: Path) -> None:
    lines = [item(f"{n}", posted_at=value) for n, value in enumerate(TIMES)]
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", *lines)], NIGHT, KINDS)
    assert refused(warehouse) == []
    assert set(moments(warehouse)) == {MIDNIGHT}


NO_TIMES = [
    20261101,
    2026,
    20_000,
    2026110112,
    20261101123000,
    100_000_000_000,
    1_763_596_800_000_000,
    1_763_596_800_000_000_000,
    "20180227115530Z",
    "20261101",
    "1763596800000000000",
    "2026",
    "2026-11",
    "2026-W47-5",
    "2026-324",
    "16",
    "1816-03-30T05:56:07",
    "9999-12-31",
    "0001-01-01",
    "2028-01-01",
    "24:00",
    "2026-11-20T24:00:00",
    "2026-11-20T00:00:00+99:99",
    "11/20/2026",
    0,
    -1,
    1.5,
    1e300,
]


def test_what_may_mean_another_time_is_refused(warehouse: Warehouse, tmp_path: Path) -> None:
    lines = [item(f"{n}", posted_at=value) for n, value in enumerate(NO_TIMES)]
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", *lines)], NIGHT, KINDS)
    assert moments(warehouse) == []
    assert {reason for _, reason in refused(warehouse)} == {"bad_time"}
    assert len(refused(warehouse)) == len(NO_TIMES)


@pytest.mark.parametrize("value", [*TIMES, *NO_TIMES])
def test_a_time_is_read_the_same_whatever_stands_beside_it(value: Any) -> None:
    years = Years(1990, 2027)
    expected = MIDNIGHT.replace(tzinfo=UTC) if value in TIMES else None
    assert read_times([value], years).values.to_pylist() == [expected]
    assert read_times([value, None, 7.5], years).values.to_pylist() == [expected, None, None]


def test_other_years_are_taken_when_asked_for(warehouse: Warehouse, tmp_path: Path) -> None:
    lines = [item(f"{n}", posted_at=value) for n, value in enumerate(["1816-03-30", 0, "2999-01-01"])]
    ingest_histories(warehouse, [jsonl(tmp_path / "h.jsonl", *lines)], NIGHT, KINDS, IngestConfig(any_year=True))
    assert moments(warehouse) == [datetime(1816, 3, 30), datetime(1970, 1, 1), datetime(2999, 1, 1)]


def parquet(path: Path, posted_at: pa.Array, **options: Any) -> Path:
    columns = {name: pa.array([value] * len(posted_at)) for name, value in HISTORY.items()}
    columns |= {"item_id": pa.array([str(n) for n in range(len(posted_at))]), "posted_at": posted_at}
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_old_times_of_spark_are_not_wrapped_round(warehouse: Warehouse, tmp_path: Path) -> None:
    days = pa.array([datetime(9999, 12, 31), datetime(1000, 1, 1), MIDNIGHT], pa.timestamp("us"))
    file = parquet(tmp_path / "h.parquet", days, use_deprecated_int96_timestamps=True)
    ingest_histories(warehouse, [file], NIGHT, KINDS)
    assert moments(warehouse) == [MIDNIGHT]
    assert refused(warehouse) == [("h.parquet:1", "bad_time"), ("h.parquet:2", "bad_time")]
    ingest_histories(warehouse, [file], NIGHT, KINDS, IngestConfig(any_year=True))
    assert moments(warehouse) == [datetime(9999, 12, 31), datetime(1000, 1, 1), MIDNIGHT]


@pytest.mark.parametrize(
    ("posted_at", "reason"),
    [
        (pa.array([SECONDS]), None),
        (pa.array([SECONDS], pa.int32()), None),
        (pa.array([float(SECONDS), None]).slice(0, 1), None),
        (pa.array([date(2026, 11, 20)]), None),
        (pa.array([SECONDS * 10**9 + 1], pa.timestamp("ns", "Europe/Berlin")), None),
        (pa.array([SECONDS], pa.timestamp("s")), None),
        (pa.array(["2026-11-20"]).dictionary_encode(), None),
        (pa.array([b"2026-11-20"]), None),
        (pa.array([1.5]), "bad_time"),
        (pa.array([2**62], pa.timestamp("us")), "bad_time"),
        (pa.array([2**62], pa.timestamp("ms")), "bad_time"),
        (pa.array([20_261_101], pa.int32()), "bad_time"),
        (pa.array([1], pa.timestamp("us")), "bad_time"),
        (pa.array([True]), "wrong_type"),
        (pa.array([["2026-11-20"]]), "wrong_type"),
        (pa.array([None], pa.timestamp("us")), "missing"),
        (pa.array([None]), "missing"),
    ],
)
def test_times_of_parquet_are_read_by_their_type(posted_at: pa.Array, reason: str | None) -> None:
    read = read_times(posted_at, Years(1990, 2027))
    assert read.values.to_pylist() == ([MIDNIGHT.replace(tzinfo=UTC)] if reason is None else [None])
    assert read.reasons.tolist() == ["" if reason in (None, "missing") else reason]


@given(st.lists(st.datetimes(datetime(1990, 1, 2), datetime(2026, 12, 30), timezones=st.timezones()), max_size=5))
def test_a_time_in_any_zone_is_the_same_moment_in_utc(given_moments: list[datetime]) -> None:
    read = read_times([given_moment.isoformat() for given_moment in given_moments], Years(1990, 2027))
    assert read.values.to_pylist() == [given_moment.astimezone(UTC) for given_moment in given_moments]
