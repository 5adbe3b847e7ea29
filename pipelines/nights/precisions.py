"""Device and precision of a run's models, decided once, by the driver: workers and records get the decision.

    flag, pplug.toml ─▶ else the one that the model ran in last, in this warehouse ─▶ else the faster one here

The second rule keeps nights comparable: which precision is faster depends on the machine, and vectors of one precision
are not used with those of the other.
"""

from dataclasses import replace
from typing import Any, TypeVar, cast

from embedder.devices import Precision, chosen_device, device_facts, has_bfloat16
from embedder.encoder import encoder_folder
from embedder.models import model_folder
from embedder.precision import decided_precision
from pipelines.nights.runs import RunRecord
from pipelines.personas.encoders import EncoderConfig
from pipelines.tables.views import asked_table
from pipelines.tables.warehouse import Warehouse

Config = TypeVar("Config", bound=EncoderConfig)


def with_precisions(warehouse: Warehouse, config: Config, record: RunRecord | None = None) -> Config:
    """The config with a device and precisions wherever it says `auto`; noted in the record of the run."""
    device = str(chosen_device(config.device))
    known, found = vars(config), dict[str, Any]({} if config.device == device else {"device": device})
    if config.dtype == "auto":
        found["dtype"] = last_precision(warehouse, "encoder", config.encoder, "dtype", device) or decided_precision(
            "auto", encoder_folder(config.encoder, config.cache)[0], device
        )
    if known.get("llm_dtype") == "auto":  # of a job that answers
        last = last_precision(warehouse, "llm", known["llm"], "llm_dtype", device)
        found["llm_dtype"] = last or faster_for_llm(config, device)
    if record is not None:
        record.config = {**record.config, **found, **device_facts(device)}
    return replace(config, **found)


def last_precision(warehouse: Warehouse, model_key: str, model: str, dtype_key: str, device: str) -> Precision | None:
    """The precision that the model ran in last; None for one that the device does not have, or for a new model."""
    params = {"model_key": f"$.{model_key}", "model": model, "dtype_key": f"$.{dtype_key}"}
    rows = asked_table(warehouse, "runs", "jobs/last_precision", params).to_pylist()
    found = cast(Precision | None, rows[0]["dtype"] if rows else None)
    return None if found == "bfloat16" and not has_bfloat16(device) else found


def faster_for_llm(config: Any, device: str) -> Precision:
    """The faster precision of the LLM; vLLM, which is made for GPUs, runs in bfloat16."""
    if config.engine == "vllm":
        return "bfloat16"
    return decided_precision("auto", model_folder(config.llm, config.cache), device)
