"""Time other programs that generate text with the same model on a CPU: vLLM, CTranslate2, OpenVINO GenAI.

    prompts (token ids) ─▶ each rival ─▶ tokens per second of wall and of CPU time ─▶ Markdown table on stdout

    OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=2 python tests/benchmarks/rival_engines.py --tasks tasks.jsonl --threads 2

Every rival answers every prompt with exactly NEW_TOKENS tokens, in bfloat16, greedily. vLLM also gets the prompts as
embeddings with a soft prompt in each, the others take plain prompts only. Rivals that are not installed are left out,
with a line on stderr; they are no dependencies of pplug. vLLM's environment is that of docs/vllm.md; another one with
`pip install ctranslate2 openvino-genai optimum-intel torch` has the others (and pplug, with --no-deps). It needs a
transformers that can read the exported tokenizer: 4.57 cannot (TokenizersBackend).
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from embedder.models import model_folder
from llm_jobs.prompts import Placement, PromptFormat, Request

NEW_TOKENS = 24
SOFT_VECTORS = 4
MOST_ROWS = 64
"""Prompts at once, of rivals that batch by themselves only when told how much."""
EMBEDDING_NORM = 3.0
"""About the norm of SmolLM2's token embeddings."""

Answer = Callable[[], int]
"""Answers all prompts and returns how many tokens were generated."""


@dataclass(frozen=True)
class Workload:
    """What all rivals are given."""

    folder: Path
    texts: list[str]
    ids: list[list[int]]
    """The prompts as pplug cuts them, chat header and footer included."""
    threads: int


@dataclass(frozen=True)
class Speed:
    """One run of one rival."""

    name: str
    wall_tokens_per_second: float
    cpu_tokens_per_second: float


def vllm(work: Workload) -> Iterator[tuple[str, Answer]]:
    """From ids and, with a soft prompt in each prompt, from embeddings; without reuse of earlier rounds."""
    engine = import_module("llm_jobs.vllm_engine")
    os.environ |= engine.ENVIRONMENT
    library = import_module("vllm")
    model = engine.VllmLLM.from_pretrained(str(work.folder))
    params = library.SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": ids} for ids in work.ids]
    drawn = torch.randn(len(work.texts), SOFT_VECTORS, 576, generator=torch.Generator().manual_seed(0))
    personas = drawn / drawn.norm(dim=2, keepdim=True) * EMBEDDING_NORM
    requests = [Request(text, persona, None, NEW_TOKENS) for text, persona in zip(work.texts, personas, strict=True)]

    def from_ids() -> int:
        model._llm.reset_prefix_cache()
        return sum(len(said.outputs[0].token_ids) for said in model._llm.generate(prompts, params, use_tqdm=False))

    def from_embeddings() -> int:
        model._llm.reset_prefix_cache()
        return sum(answer.output_tokens for answer in model.answer(requests, Placement.BEFORE))

    yield "vLLM, ids", from_ids
    yield "vLLM, soft prompts, through pplug (stops at end tokens)", from_embeddings


def ctranslate2(work: Workload) -> Iterator[tuple[str, Answer]]:
    library = import_module("ctranslate2")
    with tempfile.TemporaryDirectory() as folder:
        converter = library.converters.TransformersConverter(str(work.folder))
        converter.convert(folder, quantization="bfloat16", force=True)
        generator = library.Generator(
            folder, device="cpu", compute_type="bfloat16", inter_threads=1, intra_threads=work.threads
        )
        tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(work.folder)
        prompts = [tokenizer.convert_ids_to_tokens(ids) for ids in work.ids]

        def answer() -> int:
            found = generator.generate_batch(
                prompts,
                max_length=NEW_TOKENS,
                min_length=NEW_TOKENS,
                sampling_topk=1,
                max_batch_size=MOST_ROWS,
                include_prompt_in_result=False,
            )
            return sum(len(result.sequences_ids[0]) for result in found)

        yield "CTranslate2", answer


def openvino_genai(work: Workload) -> Iterator[tuple[str, Answer]]:
    library, openvino = import_module("openvino_genai"), import_module("openvino")
    exporter = import_module("optimum.intel").OVModelForCausalLM
    with tempfile.TemporaryDirectory() as folder:
        exporter.from_pretrained(work.folder, export=True, compile=False).save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (Path(folder) / file).write_bytes((work.folder / file).read_bytes())
        tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(work.folder)
        for name, model in zip(
            ("openvino_tokenizer", "openvino_detokenizer"),
            import_module("openvino_tokenizers").convert_tokenizer(tokenizer, with_detokenizer=True),
            strict=True,
        ):
            openvino.save_model(model, Path(folder) / f"{name}.xml")
        schedule = library.SchedulerConfig()
        schedule.cache_size, schedule.max_num_seqs = 1, MOST_ROWS
        settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": work.threads}
        pipeline = library.ContinuousBatchingPipeline(folder, schedule, "CPU", settings)
        greedy = library.GenerationConfig()
        greedy.max_new_tokens, greedy.ignore_eos, greedy.do_sample = NEW_TOKENS, True, False
        prompts = [openvino.Tensor(torch.tensor([ids]).numpy()) for ids in work.ids]

        def answer() -> int:
            found = pipeline.generate(prompts, [greedy] * len(prompts))
            return sum(len(result.m_generation_ids[0]) for result in found)

        yield "OpenVINO GenAI", answer


RIVALS = (vllm, ctranslate2, openvino_genai)


def timed(name: str, answer: Answer) -> Speed:
    """Warm up once, then time one run."""
    answer()
    wall, cpu = time.perf_counter(), cpu_seconds()
    tokens = answer()
    return Speed(name, tokens / (time.perf_counter() - wall), tokens / (cpu_seconds() - cpu))


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measured(work: Workload, names: Sequence[str]) -> Iterator[Speed]:
    """The speeds of the rivals that are installed."""
    for rival in RIVALS:
        if rival.__name__ not in names:
            continue
        try:
            for name, answer in rival(work):
                yield timed(name, answer)
        except (ImportError, OSError) as error:
            sys.stderr.write(f"{rival.__name__} is left out: {error}\n")


def workload(tasks: Path, count: int, threads: int) -> Workload:
    """The first prompts of a file of tasks."""
    rows = [json.loads(line) for line in tasks.read_text(encoding="utf8").splitlines()[:count]]
    folder, texts = model_folder("smollm2"), [row["input"] for row in rows]
    tokenizer: Any = import_module("transformers").AutoTokenizer.from_pretrained(folder)
    wanted = PromptFormat.of(tokenizer, is_encoder_decoder=False)
    parts = [wanted.parts(text, Placement.AFTER, 2048) for text in texts]
    return Workload(folder, texts, [[*part.before, *part.after] for part in parts], threads)


def main() -> None:
    names = [rival.__name__ for rival in RIVALS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, help="tasks as JSON lines; nothing is measured without")
    parser.add_argument("--count", type=int, default=128, help="how many of them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rivals", nargs="*", default=names, choices=names)
    given = parser.parse_args()
    if given.tasks is None:
        sys.stderr.write("no --tasks: nothing to measure\n")
        return
    torch.set_num_threads(given.threads)
    sys.stdout.write("| engine | tokens per CPU second | tokens per second |\n|---|---|---|\n")
    for speed in measured(workload(given.tasks, given.count, given.threads), given.rivals):
        rates = f"{speed.cpu_tokens_per_second:.0f} | {speed.wall_tokens_per_second:.0f}"
        sys.stdout.write(f"| {speed.name} | {rates} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
