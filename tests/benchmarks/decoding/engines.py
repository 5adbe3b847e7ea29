"""The engines that generation.py times: each makes of a job a function that answers all of its prompts.

Most of what an engine needs is imported when it is loaded: each environment has only what its own engines need.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from decoding import plain_engines
from decoding.loads import LOADS, NEW_TOKENS, Job

from llm_jobs.prompts import Answer, Placement, Request

Run = Callable[[], int]
"""Answers every prompt of a job, and tells how many tokens that made (of closed tasks: how many were answered)."""


def pplug(job: Job, dtype: str) -> Run:
    """This engine."""
    precision: Any = dtype
    llm = import_module("llm_jobs").FrozenLLM.from_pretrained(job["model"], precision, num_beams=job["beams"])
    requests = requests_of(job)

    def run() -> int:
        answers = [answer for answer in llm.answer(requests, Placement.BEFORE) if isinstance(answer, Answer)]
        tokens = [answer.output_tokens for answer in answers]
        sys.stderr.write(f"pplug {dtype}: {sum(answer.tie_count for answer in answers)} ties of {sum(tokens)} tokens\n")
        return len(tokens) if job["choices"] else sum(tokens)

    return run


def vllm(job: Job, dtype: str) -> Run:
    """The engine vLLM behind the same interface, with the same soft prompts."""
    llm: Any = import_module("llm_jobs.vllm_engine").load_vllm(job["model"], dtype=dtype)
    requests = requests_of(job)

    def run() -> int:
        llm.engine._llm.reset_prefix_cache()
        answers = llm.answer(requests, Placement.BEFORE)
        return len(answers) if job["choices"] else sum(answer.output_tokens for answer in answers)

    return run


def requests_of(job: Job) -> list[Request]:
    """The prompts of a job with their soft prompts, if there are any."""
    return [
        Request(text, torch.tensor(soft) if soft else None, job["choices"] and tuple(job["choices"]), NEW_TOKENS)
        for text, soft in zip(job["texts"], job["soft"], strict=True)
    ]


def ctranslate2(job: Job, compute_type: str) -> Run:
    """CTranslate2."""
    answers = plain_engines.ctranslate2(job, compute_type, NEW_TOKENS)
    return lambda: sum(map(len, answers()))


def openvino(job: Job, precision: str) -> Run:
    """OpenVINO GenAI."""
    answers = plain_engines.openvino(job, precision, NEW_TOKENS)
    return lambda: sum(map(len, answers()))


def transformers_generate(job: Job, dtype: str, batch: int, is_sorted: bool) -> Run:
    """`transformers.generate` in padded batches."""
    model, embeds = _embedded(job, dtype)
    order = sorted(range(len(embeds)), key=lambda row: -len(embeds[row])) if is_sorted else list(range(len(embeds)))

    def run() -> int:
        count = 0
        for start in range(0, len(order), batch):
            rows = [embeds[row] for row in order[start : start + batch]]
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
            mask = torch.nn.utils.rnn.pad_sequence(
                [torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True, padding_side="left"
            )
            ids = model.generate(
                inputs_embeds=padded,
                attention_mask=mask,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                num_beams=job["beams"],
            )
            end = model.generation_config.eos_token_id
            count += sum((row.index(end) + 1 if end in row else len(row)) for row in ids.tolist())
        return count

    return run


def one_forward_per_choice(job: Job, dtype: str) -> Run:
    """Every choice behind the whole prompt, one full forward pass each."""
    model, embeds = _embedded(job, dtype)
    llm = import_module("llm_jobs").FrozenLLM.from_pretrained(job["model"])
    answers = [torch.tensor(llm.answer_ids(choice)) for choice in job["choices"]]

    @torch.no_grad()
    def run() -> int:
        for prompt in embeds:
            scores: list[float] = []
            for ids in answers:
                whole = torch.cat([prompt, model.get_input_embeddings()(ids[:-1])])[None]
                logits = model(inputs_embeds=whole, logits_to_keep=len(ids)).logits[0].float()
                scores.append(float(logits.log_softmax(1)[torch.arange(len(ids)), ids].mean()))
            scores.index(max(scores))
        return len(embeds)

    return run


def _embedded(job: Job, dtype: str) -> tuple[Any, list[torch.Tensor]]:
    """The model of transformers and the prompts with their soft prompts (tokens, E)."""
    auto: Any = import_module("transformers").AutoModelForCausalLM
    model = auto.from_pretrained(job["model"], dtype=getattr(torch, dtype)).eval()
    embed = model.get_input_embeddings()

    def rows_of(soft: list[list[float]]) -> torch.Tensor:
        return embed.weight.new_tensor(soft).view(-1, embed.embedding_dim)

    with torch.no_grad():
        return model, [
            torch.cat([embed(torch.tensor(before)), rows_of(soft), embed(torch.tensor(after))])
            for before, soft, after in zip(job["before"], job["soft"], job["after"], strict=True)
        ]


@dataclass(frozen=True)
class Engine:
    """A way to answer the prompts of a job."""

    name: str
    precision: str
    loads: tuple[str, ...]
    load: Callable[[Job], Run]
    python: str | None = None
    """Environment variable that names the interpreter of another environment."""

    @property
    def interpreter(self) -> str | None:
        """The Python it runs in; None if its environment is not named."""
        return sys.executable if self.python is None else os.environ.get(self.python)


FREE = ("headlines", "queue", "plain")
ENGINES = (
    Engine("pplug", "bfloat16", tuple(LOADS), lambda job: pplug(job, "bfloat16")),
    Engine("pplug", "float32", tuple(LOADS), lambda job: pplug(job, "float32")),
    Engine("vLLM", "bfloat16", (*FREE, "closed"), lambda job: vllm(job, "bfloat16"), "VLLM_PYTHON"),
    Engine("CTranslate2", "bfloat16", ("plain",), lambda job: ctranslate2(job, "bfloat16"), "RIVALS_PYTHON"),
    Engine("CTranslate2", "float32", ("plain",), lambda job: ctranslate2(job, "float32"), "RIVALS_PYTHON"),
    Engine("CTranslate2", "int8", ("plain",), lambda job: ctranslate2(job, "int8"), "RIVALS_PYTHON"),
    Engine("OpenVINO GenAI", "bfloat16", ("plain",), lambda job: openvino(job, "bf16"), "RIVALS_PYTHON"),
    Engine("OpenVINO GenAI", "float32", ("plain",), lambda job: openvino(job, "f32"), "RIVALS_PYTHON"),
    Engine("transformers, 8, arrival", "bfloat16", FREE, lambda job: transformers_generate(job, "bfloat16", 8, False)),
    Engine("transformers, 32, sorted", "bfloat16", FREE, lambda job: transformers_generate(job, "bfloat16", 32, True)),
    Engine("transformers, 8, arrival", "float32", FREE, lambda job: transformers_generate(job, "float32", 8, False)),
    Engine("transformers, 32, sorted", "float32", FREE, lambda job: transformers_generate(job, "float32", 32, True)),
    Engine(
        "transformers, 8, sorted", "bfloat16", ("beams",), lambda job: transformers_generate(job, "bfloat16", 8, True)
    ),
    Engine(
        "transformers, 8, sorted", "float32", ("beams",), lambda job: transformers_generate(job, "float32", 8, True)
    ),
    Engine("one forward per choice", "bfloat16", ("closed",), lambda job: one_forward_per_choice(job, "bfloat16")),
)
