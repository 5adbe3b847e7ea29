"""How fast a device is, and how much memory it takes: the encoder, both engines, training."""

import gc
import logging
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from agreement import examples, new_plug
from rows import NOT_RUN, Row, Setting
from stand_ins import drawn_llm, llm_config, save, text_encoder, texts
from transformers import AutoModelForCausalLM

from embedder.devices import Dtype
from llm_jobs.engine import recorded
from llm_jobs.prompts import Answer, Placement, Request
from llm_jobs.tasks import AnsweringLLM
from llm_jobs.training.data import TrainConfig, batches
from llm_jobs.training.fit import prepare
from llm_jobs.training.through_llm import TrainingRun
from llm_jobs.vllm_engine import load_vllm

PROMPTS: Final = 2000
NEW_TOKENS: Final = 24
WORDS: Final = 60
"""Of a prompt on average: some 200 of the byte-pair tokens of the tiny tokenizer."""
SMALL, LARGE = "Llama 3.2 1B", "Qwen 3 8B"


@contextmanager
def timed(setting: Setting) -> Generator[dict[str, float]]:
    """Measure seconds, and on a GPU the most GiB that were in use."""
    told: dict[str, float] = {}
    is_gpu = setting.device.startswith("cuda")
    if is_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    yield told
    if is_gpu:
        torch.cuda.synchronize()
        told["gib"] = torch.cuda.max_memory_allocated() / 2**30
    told["seconds"] = time.perf_counter() - start


def memory(told: dict[str, float]) -> str:
    """The peak of memory, where it is known."""
    return f", peak {told['gib']:.1f} GiB" if "gib" in told else ""


def peak(setting: Setting) -> float:
    """Measure multiply-adds times two a second of a large product in bfloat16."""
    side = 256 if setting.is_tiny else 8192
    x, y = (torch.randn(side, side, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        torch.mm(x, y)
    with timed(setting) as told:
        for _ in range(10):
            torch.mm(x, y)
    return 20 * side**3 / told["seconds"]


def encoder(setting: Setting) -> list[Row]:
    """Time two encoders, the tokenizer included."""
    best = peak(setting)
    rows = [Row("product of two matrices, bfloat16", f"{best / 1e12:.0f} TFLOP/s")]
    some = texts(24 if setting.is_tiny else 16384, 30)
    dtype: Dtype = "float32" if setting.device == "cpu" else "bfloat16"
    for name in ("MiniLM", "BERT large"):
        model = text_encoder(name, setting, setting.device, dtype)
        model.encode(some[: len(some) // 8])
        lengths = model.token_counts(some)
        with timed(setting) as told:
            _, count = model.encode_counted(some)
        packed: Any = vars(model)["_model"]
        share = encoder_operations(packed, lengths) / told["seconds"] / best
        found = f"{len(some) / told['seconds']:,.0f} texts/s, {count / told['seconds']:,.0f} tokens/s"
        rows.append(Row(f"encoder, {name}, {model.kernel}", f"{found}, {share:.0%} of that{memory(told)}"))
    return rows


def encoder_operations(packed: Any, lengths: list[int]) -> float:
    """Count multiply-adds times two of encoding texts of these lengths."""
    width, layers = packed.words.shape[1], len(packed.layers)
    inner = len(packed.layers[0].up._bias)
    a_token = 2 * (4 * width * width + 2 * width * inner)
    return layers * sum(length * a_token + 4 * length**2 * width for length in lengths)


def training(setting: Setting) -> list[Row]:
    """Time steps of a training through the small LLM."""
    llm = drawn_llm(llm_config(SMALL, setting), setting.device, precision(setting))
    steps, size = (2, 4) if setting.is_tiny else (30, 32)
    config = TrainConfig(epochs=1, batch_size=size, cache_gib=8)
    prepared = prepare(examples(size * steps), llm, Placement.AFTER)
    run = TrainingRun(new_plug(llm), llm, config, prepared, lambda *_: None)
    draw = np.random.default_rng(0)
    some = list(batches(prepared, size, draw))
    run.state.descent.descend(run.losses(some[0], draw).mean())
    with timed(setting) as told:
        for batch in some[1:]:
            run.state.descent.descend(run.losses(batch, draw).mean())
    found = f"{(steps - 1) / told['seconds']:.1f} steps/s of {size} examples{memory(told)}"
    return [Row(f"training, {SMALL}, {llm.kernel}", found)]


def engine(name: str, setting: Setting, weights: str = "") -> list[Row]:
    """Time the default engine."""
    llm = drawn_llm(llm_config(name, setting), setting.device, precision(setting), weights)
    told = f"engine, {name}, {llm.kernel}" + (f", weights {weights}" if weights else "")
    with said_by(recorded.logger) as said:
        row = answering(told, llm, llm.embedding_norm, setting)
    return [replace(row, found="; ".join([row.found, *dict.fromkeys(said)]))]


@contextmanager
def said_by(logger: logging.Logger) -> Generator[list[str]]:
    """Listen to a logger: whether steps are recorded only it tells."""
    said, handler = list[str](), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def small_engine(setting: Setting) -> list[Row]:
    """Time the small LLM."""
    return engine(SMALL, setting)


def large_engine(setting: Setting) -> list[Row]:
    """Time the large LLM."""
    return engine(LARGE, setting)


def large_engine_8_bit(setting: Setting) -> list[Row]:
    """Time the large LLM with weights of 8 bits."""
    return engine(LARGE, setting, "int8") if find_spec("torchao") else [missing("engine, 8 bit", "torchao")]


def large_engine_4_bit(setting: Setting) -> list[Row]:
    """Time the large LLM with weights of 4 bits."""
    return engine(LARGE, setting, "int4") if find_spec("torchao") else [missing("engine, 4 bit", "torchao")]


def small_vllm(setting: Setting) -> list[Row]:
    """Time vLLM with the small LLM."""
    return vllm(SMALL, setting)


def large_vllm(setting: Setting) -> list[Row]:
    """Time vLLM with the large LLM."""
    return vllm(LARGE, setting)


def vllm(name: str, setting: Setting) -> list[Row]:
    """Time vLLM with a model that is written to a folder first."""
    if find_spec("vllm") is None:
        return [missing(f"vLLM, {name}", "vLLM")]
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        with torch.device(setting.device):
            model = AutoModelForCausalLM.from_config(llm_config(name, setting), dtype=torch.bfloat16)
        norm = float(model.get_input_embeddings().weight[:1000].float().norm(dim=1).mean())
        save(model, Path(folder))
        del model
        gc.collect()
        torch.cuda.empty_cache()
        llm = load_vllm(folder)
        return [answering(f"{llm.kernel}, {name}", llm, norm, setting)]


def answering(told: str, llm: AnsweringLLM, norm: float, setting: Setting) -> Row:
    """Time free answers to prompts with soft prompts."""
    count = 12 if setting.is_tiny else PROMPTS
    width = llm.reader.width
    soft = torch.randn(count, 4, width, generator=torch.Generator().manual_seed(1)) * norm / width**0.5
    requests = [Request(text, soft[at], None, NEW_TOKENS) for at, text in enumerate(texts(count, WORDS))]
    llm.answer(requests[: count // 8], Placement.AFTER)
    with timed(setting) as seconds:
        found = llm.answer(requests, Placement.AFTER)
    answers = [answer for answer in found if isinstance(answer, Answer)]
    if len(answers) < count:
        raise RuntimeError(f"{count - len(answers)} of {count} prompts were refused: {found}"[:200])
    read, written = (sum(getattr(one, name) for one in answers) for name in ("prompt_tokens", "output_tokens"))
    speed = f"{count / seconds['seconds']:,.0f} prompts/s"
    tokens = f"{read / seconds['seconds']:,.0f} tokens/s read, {written / seconds['seconds']:,.0f} written"
    return Row(f"{told}, {count} prompts", f"{speed}, {tokens}{memory(seconds)}")


def precision(setting: Setting) -> torch.dtype:
    """What the models compute in."""
    return torch.float32 if setting.device == "cpu" else torch.bfloat16


def missing(check: str, package: str) -> Row:
    """Make the row of a check whose package is not installed."""
    return Row(check, "", "", f"{NOT_RUN}: {package} is not installed")
