"""Whether a device computes what the CPU does in float32: vectors, greedy answers, losses of training."""

from copy import deepcopy
from typing import Any, Final

import numpy as np
import torch
from rows import Row, Setting, judged
from stand_ins import llm_of, text_encoder, texts
from tiny_models import DECODER_SIZES
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from embedder.devices import Dtype
from embedder.plug import PersonaPlug
from embedder.plug_config import PlugConfig
from llm_jobs import FrozenLLM
from llm_jobs.prompts import Answer, Placement, Request
from llm_jobs.training.data import Example, TrainConfig, batches
from llm_jobs.training.fit import prepare, seeded_plug
from llm_jobs.training.through_llm import TrainingRun

COSINE: Final = 1e-3
"""Most that a vector may be turned, 1 - cosine."""
LOSS: Final = 1e-3
"""Most that a loss may differ, as a share of it; ten steps let rounding grow."""
STEPS: Final = 10


def vectors(setting: Setting) -> list[Row]:
    """Compare the vectors of texts."""
    some = texts(16 if setting.is_tiny else 512, 40)
    exact = text_encoder("MiniLM", setting, "cpu", "float32").encode(some)
    names: list[Dtype] = ["float32", "bfloat16"] if setting.device == "cpu" else ["float32", "bfloat16", "float16"]
    rows: list[Row] = []
    for dtype in names:
        found = text_encoder("MiniLM", setting, setting.device, dtype).encode(some)
        off = float(1 - (exact * found).sum(1).min())
        told = f"vectors of {len(some)} texts, {dtype}"
        rows.append(judged(told, f"1 - cosine at most {off:.1e}", f"< {COSINE}", is_right=off < COSINE))
    return rows


def answers(setting: Setting) -> list[Row]:
    """Compare greedy and closed answers of both trunks; two tokens that are nearly a tie may change places."""
    rows: list[Row] = []
    for trunk, config in (("pplug llama", llama(setting)), ("transformers", qwen(setting))):
        here, there = both(config, setting)
        for kind, choices in (("greedy", None), ("closed", ("arts & culture", "arts", "sports", "world news"))):
            requests = asked(here, 8 if setting.is_tiny else 96, choices)
            found, wanted = (llm.answer(requests, Placement.AFTER) for llm in (there, here))
            pairs = list(zip(found, wanted, strict=True))
            same = sum(is_same(one, other) for one, other in pairs)
            found_row = f"{same} of {len(pairs)} equal"
            told = f"{kind} answers, {trunk}, float32"
            rows.append(judged(told, found_row, "all, but for ties", is_right=same == len(pairs)))
    return rows


def losses(setting: Setting) -> list[Row]:
    """Compare the losses of the first steps of a training."""
    found = [steps_of(llm) for llm in both(llama(setting), setting)]
    off = max(abs(one - other) / one for one, other in zip(*found, strict=True))
    told = f"losses of {STEPS} training steps, {found[0][0]:.2f} to {found[0][-1]:.2f}"
    return [judged(told, f"off by at most {off:.1e}", f"< {LOSS}", is_right=off < LOSS)]


def llama(setting: Setting) -> Any:
    """A small LLM for our own forward pass."""
    sizes = DECODER_SIZES if setting.is_tiny else DECODER_SIZES | LARGER
    return LlamaConfig(**sizes, max_position_embeddings=512)


def qwen(setting: Setting) -> Any:
    """One for the layers of transformers."""
    sizes = DECODER_SIZES if setting.is_tiny else DECODER_SIZES | LARGER
    return Qwen3Config(**sizes, head_dim=8, max_position_embeddings=512)


LARGER: Final = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6}


def both(config: Any, setting: Setting) -> tuple[FrozenLLM, FrozenLLM]:
    """The same LLM on the CPU and on the device; its weights are wide, so that ties are rare."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=1.5 * weight.shape[-1] ** -0.5)
    other = deepcopy(model).to(setting.device)
    return llm_of(model), llm_of(other)


def asked(llm: FrozenLLM, count: int, choices: tuple[str, ...] | None) -> list[Request]:
    """Requests of many lengths, each with a soft prompt of its own."""
    soft = torch.randn(count, 4, llm.width, generator=torch.Generator().manual_seed(1))
    soft *= llm.embedding_norm / llm.width**0.5
    return [Request(text, soft[at], choices, 4 + at % 21) for at, text in enumerate(texts(count, 20))]


def is_same(one: Any, other: Any) -> bool:
    """Whether two answers are the same, or may differ."""
    if not isinstance(one, Answer) or not isinstance(other, Answer):
        return False
    return bool(one.tie_count or other.tie_count) or (one.text == other.text and abs(one.score - other.score) < 1e-3)


def steps_of(llm: FrozenLLM) -> list[float]:
    """Train a plug for a few steps; the loss before each."""
    config = TrainConfig(epochs=1, batch_size=8, learning_rate=0.01)
    prepared = prepare(examples(8 * STEPS), llm, Placement.AFTER)
    plug = new_plug(llm).eval()
    run = TrainingRun(plug, llm, config, prepared, lambda *_: None)
    found: list[float] = []
    for batch in batches(prepared, config.batch_size, np.random.default_rng(0)):
        loss = run.losses(batch, None).mean()
        found.append(loss.item())
        run.state.descent.descend(loss)
    return found


def new_plug(llm: FrozenLLM) -> PersonaPlug:
    """A plug with start weights for an LLM."""
    config = PlugConfig(
        kinds=("headline",),
        encoder_width=WIDTH,
        llm_width=llm.width,
        encoder_sha256="e",
        llm_sha256=llm.sha256,
        embedding_norm=llm.embedding_norm,
    )
    return seeded_plug(config, 0)


WIDTH: Final = 16
"""Of the vectors of made-up histories."""


def examples(count: int) -> list[Example]:
    """Examples with made-up histories."""
    draw = np.random.default_rng(0)
    prompts, targets = texts(count, 20), texts(count, 4, seed=1)
    return [
        Example(
            f"user {at}",
            prompts[at],
            targets[at],
            draw.normal(size=WIDTH).astype(np.float32),
            draw.normal(size=(1 + at % 9, WIDTH)).astype(np.float32),
        )
        for at in range(count)
    ]
