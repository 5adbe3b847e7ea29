"""Protected personas: what is stored, and that nights which add to each other equal one full night."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from one_night import encode_night, generate_night, plan_encode
from small_night import ITEMS, NIGHT, TASKS, item

from embedder.errors import PplugError, UsageError
from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig
from pipelines.erasure.user_key import KEY_FILE, read_key
from pipelines.expire import expire_nights
from pipelines.personas.protection import Protection
from pipelines.tables.queries import run_checks
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

Fill = Callable[..., Warehouse]
DAYS = [NIGHT + timedelta(days=number) for number in range(5)]
PROTECTIONS = [Protection(3), Protection(item_vectors=False), Protection(noise=0.5), Protection(2, noise=0.5)]


def asked(warehouse: Warehouse, query: str) -> list[tuple[Any, ...]]:
    with connect(warehouse) as db:
        return db.sql(query).fetchall()


def personas(warehouse: Warehouse, ds: date) -> list[tuple[Any, ...]]:
    columns = (
        "user_id, vectors, vector_scales, counts, items, item_count, first_posted_at, last_posted_at, label_counts"
    )
    return asked(warehouse, f"select {columns} from personas_at(date '{ds}') order by user_id")


def failed(warehouse: Warehouse) -> dict[str, Any]:
    with connect(warehouse) as db:
        return {
            name: rows.to_pylist()
            for name, rows in run_checks(db, None).items()
            if rows.num_rows and name != "items_of_the_future"
        }


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_new_changed_deleted_and_late_items_make_the_personas_of_a_full_night(
    protection: Protection, fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    config = replace(encode_config, protection=protection)
    warehouse = fill([*ITEMS, item("dan", 0, "later", "red", day=-2)])
    encode_night(warehouse, DAYS[0], config, kinds)
    changes = [
        item("ann", 50, "new", "blue"),
        item("ann", 51, "late", "blue", day=300),
        ITEMS[0] | {"text": "changed"},
        ITEMS[13] | {"deleted": True},
        ITEMS[-1] | {"deleted": True},
        item("eve", 0, "first", "red"),
    ]
    fill(changes, ds=DAYS[1])
    record = encode_night(warehouse, DAYS[1], config, kinds)
    assert (record.rows_in, record.config["gone_count"], record.config["is_full"]) == (len(changes), 2, False)
    encode_night(warehouse, DAYS[2], config, kinds)
    found = personas(warehouse, DAYS[2])
    assert failed(warehouse) == {}
    assert found[0][0] == "ann"
    encode_night(warehouse, DAYS[2], config, kinds, force=True)
    assert found == personas(warehouse, DAYS[2])
    assert failed(warehouse) == {}


edits = st.lists(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.sampled_from(["", "red rose", "blue sea", "x"])),
        max_size=5,
    ),
    min_size=2,
    max_size=3,
)


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nights=edits, protection=st.sampled_from(PROTECTIONS), numbers=st.integers(0))
def test_whatever_happens_in_some_nights_the_personas_equal_those_of_a_full_night(
    nights: list[list[tuple[str, int, str]]],
    protection: Protection,
    numbers: int,
    fill: Fill,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    del numbers
    name = str(tmp_path_factory.mktemp("w") / "w")
    config = replace(encode_config, protection=protection, max_vectors=4)
    warehouse = fill(ITEMS, name=name)
    for ds, changes in zip(DAYS, nights, strict=False):
        rows = {(user, at): (user, at, text) for user, at, text in changes}.values()
        fill(
            [item(user, at, text, "red", day=at) | ({} if text else {"deleted": True}) for user, at, text in rows],
            ds=ds,
            name=name,
        )
        encode_night(warehouse, ds, config, kinds)
    found = personas(warehouse, ds)
    encode_night(warehouse, ds, config, kinds, force=True)
    assert found == personas(warehouse, ds)


@pytest.mark.parametrize("least", [2, 5])
def test_no_stored_vector_stands_for_fewer_items_and_few_items_make_no_persona(
    least: int,
    fill: Fill,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
    plug: Path,
) -> None:
    warehouse = fill(ITEMS, TASKS)
    encode_night(warehouse, NIGHT, replace(encode_config, protection=Protection(least)), kinds)
    assert asked(warehouse, "select max(vector_scale), max(len(vector)) from history_vectors") == [(0, 0)]
    assert asked(warehouse, "select min(list_min(counts)) >= " + str(least) + " from persona_vectors") == [(True,)]
    assert [row[0] for row in personas(warehouse, NIGHT)] == ["ann", "bob"], "cid has one item"
    record = generate_night(warehouse, NIGHT, [plug], generate_config, kinds)
    assert record.rows_out == len(TASKS)
    sources = asked(warehouse, "select distinct user_id, persona_source from outputs order by all")
    assert sources == [("ann", "history"), ("bob", "history"), ("cid", "default"), ("eve", "default")]


def test_noise_keeps_vectors_at_length_one_at_its_distance_and_is_another_under_another_key(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    query = "select vector, vector_scale from history_vectors order by user_id, kind, item_id"
    found = list[np.ndarray]()
    for name, noise in (("plain", 0.0), ("a", 1.0), ("b", 1.0)):
        warehouse = fill(ITEMS, name=name)
        encode_night(warehouse, NIGHT, replace(encode_config, protection=Protection(noise=noise)), kinds)
        assert failed(warehouse) == {}
        found.append(np.array([np.array(vector) * scale for vector, scale in asked(warehouse, query)]))
    plain, a, b = found
    for noisy in (a, b):
        np.testing.assert_allclose(np.linalg.norm(noisy, axis=1), 1, atol=0.01)
        assert 0.4 < (plain * noisy).sum(1).mean() < 0.95
    assert np.abs(a - b).max() > 0.1


@pytest.mark.parametrize("before", [DAYS[0], DAYS[1]])
def test_vectors_without_the_protection_are_told_of_also_in_old_versions_of_a_night(
    before: date, fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse, config = fill(ITEMS), replace(encode_config, protection=Protection(3))
    encode_night(warehouse, before, encode_config, kinds)
    with caplog.at_level(logging.WARNING):
        encode_night(warehouse, DAYS[1], config, kinds, rebuild=True)
        assert f"nights up to {before} are stored without this protection" in caplog.text
        caplog.clear()
        encode_night(warehouse, DAYS[2], config, kinds)
    assert "without this protection" not in caplog.text


def test_another_protection_makes_a_full_night_and_expire_removes_what_was_stored_without(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse, config = fill(ITEMS), replace(encode_config, protection=Protection(3))
    encode_night(warehouse, DAYS[0], encode_config, kinds)
    with caplog.at_level(logging.WARNING):
        record = encode_night(warehouse, DAYS[1], config, kinds)
    assert (record.config["is_full"], record.tokens > 0) == (True, True)
    assert "`pplug expire --keep 1` removes them" in caplog.text
    bare = "select count(*) from history_vectors where vector_scale > 0"
    assert asked(warehouse, bare) == [(len(ITEMS),)]
    before = personas(warehouse, DAYS[1])
    expire_nights(warehouse, 1, reader_seconds=0)
    assert asked(warehouse, bare) == [(0,)]
    assert personas(warehouse, DAYS[1]) == before
    assert encode_night(warehouse, DAYS[2], config, kinds).rows_in == 0
    with pytest.raises(PplugError, match=r"are stored with --min-items-per-vector 3 --noise 0.0, .* --rebuild`"):
        encode_night(warehouse, DAYS[3], encode_config, kinds)
    assert encode_night(warehouse, DAYS[3], encode_config, kinds, rebuild=True).config["is_full"]
    assert failed(warehouse) == {}


def test_a_plan_counts_the_whole_histories_of_changed_users(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse, config = fill(ITEMS), replace(encode_config, protection=Protection(3))
    assert plan_encode(warehouse, DAYS[0], config, kinds).row_count == len(ITEMS)
    assert read_key(warehouse) is None, "a plan writes nothing"
    encode_night(warehouse, DAYS[0], config, kinds)
    fill([item("ann", 50, "new", "blue")], ds=DAYS[1])
    assert plan_encode(warehouse, DAYS[1], config, kinds).row_count == 13


def test_a_lost_key_is_told_and_replaced_only_when_asked(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig
) -> None:
    warehouse, config = fill(ITEMS), replace(encode_config, protection=Protection(3))
    encode_night(warehouse, DAYS[0], config, kinds)
    (Path(str(warehouse)) / KEY_FILE).unlink()
    plan_encode(warehouse, DAYS[1], config, kinds, rebuild=True)
    with pytest.raises(PplugError, match=r"_forgotten.key is gone, .* --rebuild`"):
        encode_night(warehouse, DAYS[1], config, kinds)
    assert read_key(warehouse) is None
    assert encode_night(warehouse, DAYS[1], config, kinds, rebuild=True).config["is_full"]
    assert read_key(warehouse) is not None


@pytest.mark.parametrize(("least", "noise"), [(0, 0.0), (1, -1.0), (1, float("inf")), (1, float("nan"))])
def test_what_cannot_be_is_refused(least: int, noise: float) -> None:
    with pytest.raises(UsageError, match="--min-items-per-vector"):
        Protection(least, noise=noise)
