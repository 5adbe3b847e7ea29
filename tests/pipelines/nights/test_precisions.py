"""`auto` is what a model ran in last, so that no night becomes stale by chance; workers get the decision."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from one_night import encode_night
from small_night import NIGHT

from embedder.errors import PplugError
from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig, EncodeJob
from pipelines.generate import GenerateJob
from pipelines.nights.precisions import with_precisions
from pipelines.nights.runs import recorded_run
from pipelines.tables.warehouse import Warehouse

Auto = tuple[EncodeConfig, GenerateConfig]
KEY = {"user_id": "u", "item_id": "1", "kind": "note"}
ITEM = KEY | {"posted_at": "2026-10-01T00:00:00Z", "text": "sport", "output": "x"}


@pytest.fixture
def auto(encode_config: EncodeConfig, generate_config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> Auto:
    """On a processor that has bfloat16, whether this one has it or not; the tiny models are float32 if measured."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    return replace(encode_config, dtype="auto"), replace(generate_config, dtype="auto", llm_dtype="auto")


def ran(warehouse: Warehouse, config: dict[str, Any]) -> None:
    with recorded_run(warehouse, "encode", NIGHT, config):
        pass


def test_a_new_model_is_measured_and_what_is_asked_for_stays(auto: Auto, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "w")
    encode, generate = auto
    assert with_precisions(warehouse, encode).dtype == "float32"
    found = with_precisions(warehouse, generate)
    assert (found.dtype, found.llm_dtype) == ("float32", "float32")
    asked = replace(generate, dtype="bfloat16", llm_dtype="float32", device="cpu")
    assert with_precisions(warehouse, asked) == asked


def test_a_model_runs_as_it_ran_last(auto: Auto, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "w")
    encode, generate = auto
    ran(warehouse, {"encoder": encode.encoder, "dtype": "bfloat16", "llm": generate.llm, "llm_dtype": "bfloat16"})
    assert with_precisions(warehouse, encode).dtype == "bfloat16"
    found = with_precisions(warehouse, generate)
    assert (found.dtype, found.llm_dtype) == ("bfloat16", "bfloat16")
    ran(warehouse, {"encoder": encode.encoder, "dtype": "float32"})
    found = with_precisions(warehouse, generate)
    assert (found.dtype, found.llm_dtype) == ("float32", "bfloat16")


def test_runs_that_failed_or_of_other_models_do_not_count(auto: Auto, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "w")
    ran(warehouse, {"encoder": "another", "dtype": "bfloat16"})
    ran(warehouse, {"encoder": auto[0].encoder, "dtype": "auto"})
    with pytest.raises(PplugError, match="no"):
        fail(warehouse, {"encoder": auto[0].encoder, "dtype": "bfloat16"})
    assert with_precisions(warehouse, auto[0]).dtype == "float32"


def fail(warehouse: Warehouse, config: dict[str, Any]) -> None:
    with recorded_run(warehouse, "encode", NIGHT, config):
        raise PplugError("no")


def test_a_processor_without_bfloat16_measures_anew(
    auto: Auto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = Warehouse(tmp_path / "w")
    ran(warehouse, {"encoder": auto[0].encoder, "dtype": "bfloat16"})
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert with_precisions(warehouse, auto[0]).dtype == "float32"


def test_a_run_records_what_was_decided_and_the_night_stays_done(
    auto: Auto, fill: Callable[..., Warehouse], kinds: dict[str, Kind]
) -> None:
    warehouse = fill([ITEM])
    first = encode_night(warehouse, NIGHT, auto[0], kinds)
    assert first.config["dtype"] == "float32"
    again = encode_night(warehouse, NIGHT, auto[0], kinds)
    assert again.config["published_by"] == first.run_id
    named = encode_night(warehouse, NIGHT, replace(auto[0], dtype="float32"), kinds)
    assert named.config["published_by"] == first.run_id


def test_the_run_record_names_the_device_and_the_card(
    auto: Auto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = Warehouse(tmp_path / "w")
    jobs = EncodeJob(auto[0], {}), GenerateJob(auto[1], (), {})
    for job in jobs:
        assert job.decided(warehouse).settings["device"] == "cpu"
        assert "card" not in job.settings
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    for job in jobs:
        settings = job.decided(warehouse).settings
        assert (settings["device"], settings["card"], settings["dtype"]) == ("cuda", "A card", "bfloat16")
    with recorded_run(warehouse, "train", NIGHT, {}) as record:
        with_precisions(warehouse, auto[1], record)
    assert record.config == {
        "device": "cuda",
        "card": "A card",
        "dtype": "bfloat16",
        "llm_dtype": "bfloat16",
    }
