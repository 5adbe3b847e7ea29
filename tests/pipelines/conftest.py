"""Small warehouses and real tiny models for the tests of the pipelines."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from command_line import Pplug, Said
from s3_server import s3_server
from small_night import NIGHT, NOTE
from tiny_models import save_model, tiny_bert, tiny_llama

from llm_jobs.kinds import Kind, load_kinds
from llm_jobs.training.fit import seeded_plug
from pipelines.answers.models import GenerateConfig, load_models
from pipelines.cli import main
from pipelines.encode import EncodeConfig
from pipelines.ingest import ingest_histories, ingest_tasks
from pipelines.tables.warehouse import Warehouse
from pipelines.train import plug_config


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
    folder = tmp_path / "plug"
    seeded_plug(plug_config(kinds["note"], load_models(generate_config)), seed=1).save_pretrained(folder)
    return folder


@pytest.fixture
def fill(tmp_path: Path, kinds: dict[str, Kind]) -> Callable[..., Warehouse]:
    """Make a warehouse of items and tasks."""
    numbers = iter(range(1000))

    def fill_warehouse(
        items: list[dict[str, Any]], tasks: list[dict[str, Any]] | None = None, ds: date = NIGHT, name: str = "w"
    ) -> Warehouse:
        warehouse = Warehouse(tmp_path / name)
        for rows, ingest in ((items, ingest_histories), (tasks or [], ingest_tasks)):
            if rows:
                file = tmp_path / f"{next(numbers)}.jsonl"
                file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf8")
                ingest(warehouse, [file], ds, kinds)
        return warehouse

    return fill_warehouse


@pytest.fixture
def pplug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Pplug]:
    """Run `pplug` in a folder of its own; environment and loggers are given back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", os.environ.copy())
    loggers = [logging.getLogger(name) for name in (None, "apache_beam", "embedder", "llm_jobs", "pipelines")]
    before = [(logger.handlers[:], logger.level) for logger in loggers]

    def run(*args: str) -> Said:
        capfd.readouterr()
        return Said(main(args), *capfd.readouterr())

    yield run
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.fixture
def tiny_models(pplug: Pplug, encoder_folder: Path, llm_folder: Path) -> Pplug:
    """`pplug` whose commands use tiny models, whatever pplug.toml says."""
    os.environ |= {"PPLUG_ENCODER": str(encoder_folder), "PPLUG_LLM": str(llm_folder), "PPLUG_LLM_DTYPE": "float32"}
    return pplug
