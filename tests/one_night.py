"""One night of a job, for tests that take no part of the job apart, and where the files of a table lie."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig, encode_job
from pipelines.generate import generate_job
from pipelines.nights.night import plan_night, run_night
from pipelines.nights.plans import Plan
from pipelines.nights.runners import Runner
from pipelines.nights.runs import Progress, RunRecord, no_progress
from pipelines.tables.warehouse import Warehouse


def encode_night(
    warehouse: Warehouse,
    ds: date,
    config: EncodeConfig,
    kinds: Mapping[str, Kind],
    *,
    progress: Progress = no_progress,
    runner: Runner | None = None,
    **options: Any,
) -> RunRecord:
    """Write the night's vectors."""
    return run_night(encode_job(config, kinds, runner=runner, **options), warehouse, ds, progress, runner)


def plan_encode(
    warehouse: Warehouse, ds: date, config: EncodeConfig, kinds: Mapping[str, Kind], **options: Any
) -> Plan:
    """What `encode_night` would do."""
    return plan_night(encode_job(config, kinds, is_plan=True, **options), warehouse, ds)


def generate_night(
    warehouse: Warehouse,
    ds: date,
    plugs: Sequence[Path],
    config: GenerateConfig,
    kinds: Mapping[str, Kind],
    *,
    progress: Progress = no_progress,
    runner: Runner | None = None,
    **options: Any,
) -> RunRecord:
    """Write the night's outputs."""
    return run_night(generate_job(plugs, config, kinds, runner=runner, **options), warehouse, ds, progress, runner)


def plan_generate(
    warehouse: Warehouse,
    ds: date,
    plugs: Sequence[Path],
    config: GenerateConfig,
    kinds: Mapping[str, Kind],
    **options: Any,
) -> Plan:
    """What `generate_night` would do."""
    return plan_night(generate_job(plugs, config, kinds, **options), warehouse, ds)


def live_paths(warehouse: Warehouse, name: str, version: int | None = None) -> list[Path]:
    """The live files of a table of a warehouse on this machine, in a fixed order."""
    return [warehouse.root / file.name for file in warehouse.live(name, version)]
