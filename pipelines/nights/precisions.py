"""Device and precision of a run's models, decided once, by the driver: workers and records get the decision.

    flag, pplug.toml ─▶ else the one that the model ran in last, in this warehouse ─▶ else the faster one here

The second rule keeps nights comparable: which precision is faster depends on the machine, and vectors of one precision
are not used with those of the other.
"""

from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar, cast, runtime_checkable

from embedder.devices import LLMDtype, Precision, chosen_device, device_facts, has_bfloat16
from embedder.encoder import encoder_folder
from embedder.models import model_folder
from embedder.precision import decided_precision
from pipelines.nights.runs import RunRecord
from pipelines.personas.encoders import NamesEncoder
from pipelines.tables.views import asked_table
from pipelines.tables.warehouse import Warehouse


@runtime_checkable
class NamesLLM(Protocol):
    """The config of any job that answers."""

    @property
    def llm(self) -> str: ...
    @property
    def llm_dtype(self) -> LLMDtype: ...
    @property
    def engine(self) -> str: ...
    @property
    def cache(self) -> Path | None: ...
    @property
    def device(self) -> str: ...


Config = TypeVar("Config", bound=NamesEncoder)


def with_precisions(warehouse: Warehouse, config: Config, record: RunRecord | None = None) -> Config:
    """The config with a device and precisions wherever it says `auto`.

    Args:
        warehouse: its earlier runs are read.
        config: of a job.
        record: of the run, in which the decision is noted.

    Raises:
        InputMissing: if a model must be measured that is not here.
        UsageError: if the device is not here.
    """
    device = str(chosen_device(config.device))
    found = {} if config.device == device else {"device": device}
    if config.dtype == "auto":
        found["dtype"] = last_precision(warehouse, "encoder", config.encoder, "dtype", device) or decided_precision(
            "auto", encoder_folder(config.encoder, config.cache)[0], device
        )
    if isinstance(config, NamesLLM) and config.llm_dtype == "auto":
        last = last_precision(warehouse, "llm", config.llm, "llm_dtype", device)
        found["llm_dtype"] = last or faster_for_llm(config, device)
    if record is not None:
        record.config = {**record.config, **found, **device_facts(device)}
    return cast(Config, replace(config, **found)) if found else config  # pyright: ignore[reportArgumentType]  # dataclasses


def last_precision(warehouse: Warehouse, model_key: str, model: str, dtype_key: str, device: str) -> Precision | None:
    """The precision that the model ran in last; None for one that the device does not have, or for a new model."""
    params = {"model_key": f"$.{model_key}", "model": model, "dtype_key": f"$.{dtype_key}"}
    rows = asked_table(warehouse, "runs", "jobs/last_precision", params).to_pylist()
    found = cast(Precision | None, rows[0]["dtype"] if rows else None)
    return None if found == "bfloat16" and not has_bfloat16(device) else found


def faster_for_llm(config: NamesLLM, device: str) -> Precision:
    """The faster precision of the LLM; vLLM, which is made for GPUs, runs in bfloat16."""
    if config.engine == "vllm":
        return "bfloat16"
    return decided_precision("auto", model_folder(config.llm, config.cache), device)
