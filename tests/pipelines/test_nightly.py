"""Whole nights and ranges of nights, on a small warehouse with tiny models."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
import torch
from one_night import encode_night, generate_night, plan_encode, plan_generate
from small_night import ITEMS, NIGHT, TASKS, item, task
from tiny_models import save_model
from transformers import BertConfig, BertModel

from embedder.errors import InputMissing, PplugError, UsageError
from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig
from pipelines.backfill import nights_with_histories, nights_with_tasks, plan_nights, run_nights
from pipelines.encode import EncodeConfig, encode_job
from pipelines.generate import generate_job
from pipelines.nightly import run_nightly
from pipelines.nights.job import NightJob
from pipelines.nights.night import plan_night
from pipelines.nights.runs import Excludes, recorded_run
from pipelines.nights.steps import StepsFailed, raise_worst
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

Fill = Callable[..., Warehouse]
DAYS = [NIGHT + timedelta(days=number) for number in range(4)]


@pytest.fixture(scope="session")
def other_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(4)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=300, max_position_embeddings=128, pad_token_id=0, **sizes)
    return str(save_model(tmp_path_factory.mktemp("other"), BertModel(config, add_pooling_layer=False), is_chat=False))


def run_ids(warehouse: Warehouse, table: str, ds: date = NIGHT) -> set[str]:
    with connect(warehouse) as db:
        return {row[0] for row in db.execute(f"select run_id from {table} where ds = $ds", {"ds": ds}).fetchall()}


def ran(job: NightJob, warehouse: Warehouse, nights: Sequence[date]) -> list[tuple[date, str]]:
    return [(step.ds, step.status) for step in run_nights(job, warehouse, nights, 0.05)]


# One night


def test_a_night_that_is_done_is_left_as_it_is_until_something_changes(
    night: Warehouse, plug: Path, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    warehouse = night
    first = generate_night(warehouse, NIGHT, [plug], generate_config, kinds)
    again = generate_night(warehouse, NIGHT, [plug], generate_config, kinds)
    assert (again.rows_in, again.rows_out, again.tokens, again.status) == (first.rows_in, first.rows_out, 0, "done")
    assert run_ids(warehouse, "outputs") == {first.run_id}
    assert plan_generate(warehouse, NIGHT, [plug], generate_config, kinds).state == "done"
    encode_night(warehouse, NIGHT, encode_config, kinds)
    assert plan_generate(warehouse, NIGHT, [plug], generate_config, kinds).state == "done", "the personas are the same"
    encode_night(warehouse, NIGHT, replace(encode_config, max_vectors=3), kinds)
    assert plan_generate(warehouse, NIGHT, [plug], generate_config, kinds).state == "inputs changed"
    newer = generate_night(warehouse, NIGHT, [plug], generate_config, kinds)
    assert run_ids(warehouse, "outputs") == {newer.run_id}
    forced = generate_night(warehouse, NIGHT, [plug], generate_config, kinds, force=True)
    assert run_ids(warehouse, "outputs") == {forced.run_id}


def test_old_personas_are_told_and_refused_beyond_the_limit(
    fill: Fill,
    plug: Path,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    warehouse = fill(ITEMS, TASKS)
    fill([], TASKS, ds=DAYS[2])
    encode_night(warehouse, NIGHT, encode_config, kinds)
    with pytest.raises(
        PplugError, match="2 days older than the tasks, more than --max-persona-age 1: run `pplug encode"
    ):
        generate_night(warehouse, DAYS[2], [plug], generate_config, kinds, max_persona_age=1)
    generate_night(warehouse, NIGHT, [plug], generate_config, kinds, max_persona_age=0)
    assert "older" not in caplog.text
    generate_night(warehouse, DAYS[2], [plug], generate_config, kinds, max_persona_age=2)
    assert "ds=2026-11-02, are 2 days older than the tasks" in caplog.text


def test_another_encoder_needs_a_rebuild_and_mixes_with_nothing(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, other_encoder: str
) -> None:
    warehouse, changed = fill(ITEMS), replace(encode_config, encoder=other_encoder)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    with pytest.raises(PplugError, match=r"pplug encode --ds 2026-11-03 --rebuild"):
        encode_night(warehouse, DAYS[1], changed, kinds)
    with pytest.raises(PplugError, match="--rebuild"):
        plan_encode(warehouse, DAYS[1], changed, kinds)
    encode_night(warehouse, DAYS[1], changed, kinds, rebuild=True)
    later = encode_night(warehouse, DAYS[2], changed, kinds)
    assert later.tokens == 0, "the rebuilt vectors are used again"
    with connect(warehouse) as db:
        counts = "select ds, count(*), count(distinct encoder_sha256) from history_vectors group by ds order by ds"
        assert db.sql(counts).fetchall() == [(NIGHT, len(ITEMS), 1), (DAYS[1], len(ITEMS), 1)]
        nights = "select ds, count(distinct encoder_sha256) from persona_vectors group by ds order by ds"
        assert db.sql(nights).fetchall() == [(ds, 1) for ds in DAYS[:2]]


@pytest.mark.beam
def test_a_whole_night_is_three_recorded_steps(
    fill: Fill, plug: Path, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    warehouse = fill(ITEMS, TASKS)
    jobs = (encode_job(encode_config, kinds), generate_job([plug], generate_config, kinds))
    before = warehouse.versions()
    assert [plan_night(job, warehouse, NIGHT).row_count for job in jobs] == [len(ITEMS), 6]
    assert warehouse.versions() == before
    steps = list(run_nightly(warehouse, NIGHT, jobs, 0.05))
    assert [(step.job, step.status, step.exit_code) for step in steps] == [
        ("encode", "done", 0),
        ("generate", "done", 0),
        ("check", "done", 0),
    ]
    with connect(warehouse) as db:
        recorded = db.sql("select run_id from runs where job not like 'ingest%' order by started_at").fetchall()
    assert [row[0] for row in recorded] == [step.run_id for step in steps]
    assert [step.tokens for step in run_nightly(warehouse, NIGHT, jobs, 0.05)] == [0, 0, 0]
    raise_worst(steps)


@pytest.mark.beam
def test_a_night_whose_encoding_fails_is_answered_with_the_personas_there_are(
    fill: Fill, plug: Path, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    warehouse = fill(ITEMS, TASKS)
    fill([], [task("late", "ann", "apples", kind="LaMP_4") | {"choices": None}, *TASKS], ds=DAYS[1])
    encode_night(warehouse, NIGHT, encode_config, kinds)
    broken = replace(encode_config, encoder=str(warehouse.root / "nowhere"))
    jobs = (encode_job(broken, kinds), generate_job([plug], generate_config, kinds))
    steps = list(run_nightly(warehouse, DAYS[1], jobs, 0.05))
    assert [(step.job, step.exit_code) for step in steps] == [("encode", 4), ("generate", 3), ("check", 0)]
    with pytest.raises(StepsFailed, match=r"^2 of 3 runs did not end well: encode ds=2026-11-03: .*nowhere") as told:
        raise_worst(steps)
    assert told.value.exit_code == 4


# Ranges of nights


def test_a_night_that_is_refused_answers_nothing_with_old_personas(
    fill: Fill, plug: Path, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    warehouse = fill(ITEMS, TASKS)
    fill([item("ann", 50, "a new word", "blue")], TASKS, ds=DAYS[1])
    encode_night(warehouse, NIGHT, encode_config, kinds)
    jobs = (encode_job(encode_config, kinds), generate_job([plug], generate_config, kinds))
    with recorded_run(warehouse, "encode", DAYS[1], {}, Excludes.SAME_NIGHT):  # as another `nightly` would
        steps = list(run_nightly(warehouse, DAYS[1], jobs, 0.05))
    assert [(step.job, step.status, step.exit_code) for step in steps] == [("encode", "refused", 1)]
    assert "is running already" in steps[0].error
    with pytest.raises(StepsFailed, match="1 of 1 runs did not end well: encode") as told:
        raise_worst(steps)
    assert told.value.exit_code == 1
    assert run_ids(warehouse, "outputs", DAYS[1]) == set()
    assert [step.status for step in run_nightly(warehouse, DAYS[1], jobs, 0.05)] == ["done", "done", "done"]


def test_a_backfill_runs_what_is_missing_or_changed_the_oldest_first(
    fill: Fill, plug: Path, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    warehouse = fill(ITEMS, TASKS)
    for ds in DAYS[1:]:
        fill([item("new", ds.day, f"word {ds.day}", "red")], [task("t", "ann", "x")], ds=ds)
    nights = nights_with_histories(warehouse, DAYS[0] - timedelta(days=3), DAYS[3])
    chosen = (encode_job(encode_config, kinds), warehouse, nights)
    assert [plan.ds for plan in plan_nights(*chosen)] == DAYS
    encode_night(warehouse, DAYS[1], encode_config, kinds)
    plans = plan_nights(*chosen)
    assert [(plan.ds, plan.state) for plan in plans] == [(ds, "missing") for ds in (DAYS[0], DAYS[2], DAYS[3])]
    before = warehouse.versions()
    tokens = [step.tokens for step in run_nights(*chosen, 0.05)]
    assert tokens == [plan.tokens for plan in plans]
    assert tokens[0] == 0, "a later night holds its vectors"
    assert warehouse.versions() != before
    assert ran(*chosen) == []
    fill([item("bob", 0, "another boat", "blue")], ds=DAYS[2])
    assert [(plan.ds, plan.state) for plan in plan_nights(*chosen)] == [(ds, "inputs changed") for ds in DAYS]
    other = (encode_job(replace(encode_config, max_vectors=3), kinds), warehouse, DAYS[2:])
    assert ran(*other) == [(DAYS[2], "done"), (DAYS[3], "done")]
    assert ran(*other) == []
    answers = (generate_job([plug], generate_config, kinds), warehouse, nights_with_tasks(warehouse, DAYS[2], DAYS[3]))
    assert [(plan.ds, plan.state) for plan in plan_nights(*answers)] == [(DAYS[2], "missing"), (DAYS[3], "missing")]
    assert ran(*answers) == [(DAYS[2], "done"), (DAYS[3], "done")]
    assert ran(*answers) == []


def test_a_backfill_plans_no_night_that_is_still_to_come(fill: Fill, caplog: pytest.LogCaptureFixture) -> None:
    warehouse = fill(ITEMS)

    def nights(start: date, today: date) -> Sequence[date]:
        now = datetime.combine(today, time(23), UTC)
        return nights_with_histories(warehouse, start, DAYS[3], lambda: now)

    assert nights(DAYS[0], DAYS[3]) == DAYS
    assert caplog.messages == []
    assert nights(DAYS[0], DAYS[1]) == DAYS[:2]
    assert caplog.messages == [f"the nights after {DAYS[1]} have no data yet and are left out"]
    assert nights(DAYS[0], DAYS[0] - timedelta(days=9)) == DAYS[:1], "it has items already"
    with pytest.raises(InputMissing, match="no histories as of"):
        nights(DAYS[2], DAYS[1])


@pytest.mark.beam
def test_a_night_that_fails_does_not_stop_a_backfill(
    fill: Fill, plug: Path, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    warehouse = fill(ITEMS, TASKS)
    fill([], [task("t", "ann", "x")], ds=DAYS[1])
    encode_night(warehouse, DAYS[1], encode_config, kinds)  # the first night has no personas
    nights = nights_with_tasks(warehouse, DAYS[0], DAYS[3])
    chosen = (generate_job([plug], generate_config, kinds), warehouse, nights)
    steps = list(run_nights(*chosen, 0.05))
    assert [(step.ds, step.status) for step in steps] == [(DAYS[0], "failed"), (DAYS[1], "done")]
    with pytest.raises(StepsFailed, match=r"^1 of 2 runs did not end well: generate ds=2026-11-02: no persona_vectors"):
        raise_worst(steps)
    assert ran(*chosen) == [(DAYS[0], "failed")], "the other one is done"


def test_a_backfill_of_nothing_says_what_to_run(
    fill: Fill, kinds: dict[str, Kind], generate_config: GenerateConfig
) -> None:
    warehouse = fill(ITEMS)
    with pytest.raises(InputMissing, match="pplug ingest histories"):
        nights_with_histories(warehouse, NIGHT - timedelta(days=9), NIGHT - timedelta(days=2))
    with pytest.raises(UsageError, match="is before --start"):
        nights_with_histories(warehouse, DAYS[1], DAYS[0])
    with pytest.raises(InputMissing, match="pplug ingest tasks"):
        nights_with_tasks(warehouse, *DAYS[:2])
    with pytest.raises(UsageError, match="--plug DIR"):
        generate_job([], generate_config, kinds)
