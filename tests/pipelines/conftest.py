"""Small warehouses and real tiny models for the tests of the pipelines."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from command_line import Pplug, Said
from ingesting import ingest_all
from one_night import encode_night
from s3_server import s3_server
from small_night import ITEMS, NIGHT, NOTE, TASKS
from tiny_models import save_model, tiny_bert, tiny_llama

from llm_jobs.kinds import Kind, load_kinds
from llm_jobs.training import labels
from llm_jobs.training.data import TrainConfig
from llm_jobs.training.fit import seeded_plug
from pipelines.answers.models import GenerateConfig, load_models
from pipelines.cli import main
from pipelines.encode import EncodeConfig
from pipelines.nights import runners, working
from pipelines.tables.warehouse import Warehouse
from pipelines.train import TrainResult, plug_config, train_job
from pipelines.training_data import PlugChoice


@pytest.fixture(autouse=True)
def beam_where_it_matters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nights in tests marked `beam`, and whatever a process of its own runs, go through Beam; others do not.

    A pipeline costs .2 CPU seconds a night.
    """
    if "beam" not in request.keywords:
        monkeypatch.setattr(runners, "run_beam", lambda night, shards, _: working.finish(night, shards))


@pytest.fixture(scope="module", autouse=True)
def short_training() -> Iterator[None]:
    """Plugs are trained in 20 steps, not 800: how good they are is the matter of tests/llm_jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, "STEPS", 20)
        yield


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, str]]:
    """What a client of the server must know; its bucket is named `bucket`."""
    with s3_server() as options:
        yield options


@pytest.fixture(scope="session")
def kinds() -> dict[str, Kind]:
    return load_kinds({"note": NOTE})


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("bert"), tiny_bert(3), is_chat=False)


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), tiny_llama(4, 512), is_chat=True)


@pytest.fixture(scope="session")
def encode_config(encoder_folder: Path) -> EncodeConfig:
    return EncodeConfig(encoder=str(encoder_folder), dtype="float32", max_vectors=8, shard_items=10)


@pytest.fixture(scope="session")
def generate_config(encoder_folder: Path, llm_folder: Path) -> GenerateConfig:
    models = {"llm": str(llm_folder), "encoder": str(encoder_folder)}
    return GenerateConfig(**models, llm_dtype="float32", dtype="float32", shard_tasks=2)


@pytest.fixture
def plug(tmp_path: Path, kinds: dict[str, Kind], generate_config: GenerateConfig) -> Path:
    """An untrained plug: whatever it says, it must say it for the right user."""
    folder = tmp_path / "plug"
    seeded_plug(plug_config(kinds["note"], load_models(generate_config)), seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def train_notes(kinds: dict[str, Kind], generate_config: GenerateConfig) -> Callable[..., TrainResult]:
    """Train a plug on everybody's notes up to the small night, in one epoch unless told otherwise."""

    def train(warehouse: Warehouse, folder: Path, **settings: Any) -> TrainResult:
        config = TrainConfig(**{"epochs": 1, "batch_size": 8, "held_out": 0.0, **settings})
        return train_job(warehouse, folder, PlugChoice("note", NIGHT), generate_config, config, kinds)

    return train


@pytest.fixture(scope="session")
def first_fills() -> dict[str, Path]:
    """Copies of warehouses as the first ingestion left them, by what was ingested: many tests begin with the same."""
    return {}


@pytest.fixture
def fill(
    tmp_path: Path,
    kinds: dict[str, Kind],
    first_fills: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Warehouse]:
    """Add items and tasks to a warehouse."""

    def fill_warehouse(
        items: list[dict[str, Any]], tasks: list[dict[str, Any]] | None = None, ds: date = NIGHT, name: str = "w"
    ) -> Warehouse:
        folder, what = tmp_path / name, json.dumps([items, tasks or [], ds.isoformat()], default=str)
        is_first = not folder.exists()
        if is_first and what in first_fills:
            shutil.copytree(first_fills[what], folder)
            return Warehouse(folder)
        warehouse = ingest_all(Warehouse(folder), tmp_path, items, tasks or [], ds, kinds)
        if is_first and folder.exists():
            first_fills[what] = tmp_path_factory.mktemp("filled") / "w"
            shutil.copytree(folder, first_fills[what])
        return warehouse

    return fill_warehouse


@pytest.fixture(scope="session")
def encoded_night(
    kinds: dict[str, Kind], encode_config: EncodeConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A warehouse with the small night's items and tasks, encoded; for `night` to copy."""
    folder = tmp_path_factory.mktemp("encoded")
    warehouse = ingest_all(Warehouse(folder / "w"), folder, ITEMS, TASKS, NIGHT, kinds)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    return folder / "w"


@pytest.fixture
def night(encoded_night: Path, tmp_path: Path) -> Warehouse:
    """The small night, ingested and encoded."""
    shutil.copytree(encoded_night, tmp_path / "w")
    return Warehouse(tmp_path / "w")


@pytest.fixture
def pplug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Pplug]:
    """Run `pplug` in a folder of its own; environment and loggers are given back."""
    monkeypatch.chdir(tmp_path)
    environment = os.environ.copy()
    loggers = [logging.getLogger(name) for name in (None, "apache_beam", "embedder", "llm_jobs", "pipelines")]
    before = [(logger.handlers[:], logger.level) for logger in loggers]

    def run(*args: str) -> Said:
        capfd.readouterr()
        return Said(main(args), *capfd.readouterr())

    yield run
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def tiny_models(pplug: Pplug, encoder_folder: Path, llm_folder: Path) -> Pplug:
    """`pplug` whose commands use tiny models, whatever pplug.toml says."""
    os.environ |= {"PPLUG_ENCODER": str(encoder_folder), "PPLUG_LLM": str(llm_folder), "PPLUG_LLM_DTYPE": "float32"}
    return pplug
