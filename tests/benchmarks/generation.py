r"""Time this engine against other ways to decode with the same frozen LLM on a CPU, alternating in one run.

    prompts of a load ─▶ a file ─▶ each engine in a process of its own, in turn, ROUNDS times ─▶ Markdown on stdout

    REAL_DATA=prepared VLLM_PYTHON=vllm-env/bin/python python tests/benchmarks/generation.py
    python tests/benchmarks/generation.py --loads closed --threads 1 --engines pplug "one forward per choice"

Loads: `headlines`, 128 prompts of LaMP_4 with at most 24 new tokens and soft prompts of 5 vectors; `plain`, the same
without soft prompts; `beams`, 48 with soft prompts and 4 beams; `queue`, 500 tasks of LaMP_4 and LaMP_5; `closed`, 29
choices for tasks of LaMP_2N. REAL_DATA is a folder with lamp/LaMP_4/dev_questions.json and so on; without it the
prompts are made up. A new engine is a function and a line in ENGINES. An engine that does not load is left out, with a
line on stderr. A first round, in which all engines load and warm up, is not counted.

vLLM (docs/vllm.md) runs in an environment of its own, which VLLM_PYTHON names; it forgets the prompts between rounds.
CTranslate2 and OpenVINO GenAI (generation_rivals.py) run in another one, which RIVALS_PYTHON names:

    python3.11 -m venv rivals-env
    rivals-env/bin/pip install ctranslate2==4.8.5 openvino-genai==2026.4.1.0 optimum-intel==1.27.0 \
        transformers==4.57.6 torch==2.13.0
    REAL_DATA=prepared VLLM_PYTHON=vllm-env/bin/python RIVALS_PYTHON=rivals-env/bin/python \
        python tests/benchmarks/generation.py --loads plain
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import generation_rivals
import torch

import llm_jobs
from embedder.models import model_folder
from llm_jobs.linear import PackedProjection
from llm_jobs.prompts import Answer, Placement, Request

Job = dict[str, Any]
Run = Callable[[], int]
"""Answers every prompt of a job, and tells how many tokens that made (of closed tasks: how many were answered)."""

SOFT = 5
NEW_TOKENS = 24
CHOICES = 29
BEAMS = 4
LOADS = {"headlines": 128, "queue": 500, "closed": 32, "plain": 128, "beams": 48}


def pplug(job: Job, dtype: str) -> Run:
    """This engine."""
    precision: Any = dtype
    llm = llm_jobs.FrozenLLM.from_pretrained(job["model"], precision, num_beams=job["beams"])
    requests = requests_of(job)

    def run() -> int:
        answers = [answer for answer in llm.answer(requests, Placement.BEFORE) if isinstance(answer, Answer)]
        tokens = [answer.output_tokens for answer in answers]
        sys.stderr.write(f"pplug {dtype}: {sum(answer.tie_count for answer in answers)} ties of {sum(tokens)} tokens\n")
        return len(tokens) if job["choices"] else sum(tokens)

    return run


def vllm(job: Job, dtype: str) -> Run:
    """The engine vLLM behind the same interface, with the same soft prompts."""
    llm: Any = import_module("llm_jobs.vllm_engine").VllmLLM.from_pretrained(job["model"], dtype=dtype)
    requests = requests_of(job)

    def run() -> int:
        llm._llm.reset_prefix_cache()
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
    answers = generation_rivals.ctranslate2(job, compute_type, NEW_TOKENS)
    return lambda: sum(map(len, answers()))


def openvino(job: Job, precision: str) -> Run:
    """OpenVINO GenAI."""
    answers = generation_rivals.openvino(job, precision, NEW_TOKENS)
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
    llm = llm_jobs.FrozenLLM.from_pretrained(job["model"])
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


def texts_of(load: str, count: int, data: Path | None) -> list[str]:
    """Prompts of a load, in a random but fixed order."""
    kinds = {"queue": ("LaMP_4", "LaMP_5"), "closed": ("LaMP_2N",)}.get(load, ("LaMP_4",))
    if data is None:
        words = " ".join(import_module("pydoc_data.topics").topics.values()).split()
        draw = random.Random(0)
        starts = [draw.randrange(len(words) - 100) for _ in range(count)]
        return [
            "Generate a headline for the following article: " + " ".join(words[at : at + draw.randint(8, 60)])
            for at in starts
        ]
    texts: list[str] = []
    for kind in kinds:
        questions = json.loads((data / "lamp" / kind / "dev_questions.json").read_text(encoding="utf8"))
        texts += [question["input"] for question in questions[: -(-count // len(kinds))]]
    random.Random(0).shuffle(texts)
    return texts[:count]


def job_of(load: str, count: int, data: Path | None, model: str) -> Job:
    """Prompts as text and as token ids around the soft prompt, and the soft prompts, empty if the load has none."""
    llm = llm_jobs.FrozenLLM.from_pretrained(model)
    texts = texts_of(load, count, data)
    parts = [llm.parts(text, Placement.BEFORE, SOFT + NEW_TOKENS) for text in texts]
    drawn = torch.randn(len(texts), SOFT, llm.width, generator=torch.Generator().manual_seed(0))
    soft = drawn / drawn.norm(dim=2, keepdim=True) * llm.embedding_norm * 0.3
    return {
        "model": model,
        "texts": texts,
        "before": [part.before for part in parts],
        "after": [part.after for part in parts],
        "soft": [[] for _ in texts] if load == "plain" else soft.tolist(),
        "beams": BEAMS if load == "beams" else 1,
        "choices": choices(texts[0]) if load == "closed" else None,
        "operations_per_token": 2
        * sum(weight.numel() for name, weight in llm.model.named_parameters() if "proj" in name),
        "operations_per_logits": 2 * llm.model.get_output_embeddings().weight.numel(),
    }


def choices(prompt: str) -> list[str]:
    """29 labels: those of the prompt and made-up ones."""
    listed = prompt.partition("[")[2].partition("]")[0]
    own = [label.strip() for label in listed.split(",") if label.strip()]
    return (own + [f"other news of kind {at}" for at in range(CHOICES)])[:CHOICES]


def product_speed(precision: str) -> float:
    """Operations per second of a matrix product of 1024x576 and 576x1536, as in a layer of SmolLM2."""
    dtype = getattr(torch, precision)
    x, projection = torch.randn(1024, 576).to(dtype), PackedProjection(torch.randn(1536, 576).to(dtype))
    speeds: list[float] = []
    for _ in range(100):  # threads of the engine before may still spin during the first
        start = time.perf_counter()
        projection(x)
        speeds.append(2 * 1024 * 576 * 1536 / (time.perf_counter() - start))
    return max(speeds)


def serve(engine: Engine, job: Job) -> None:
    """Load an engine; for every line on stdin answer all prompts, and say how long it took."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    run = engine.load(job)
    while sys.stdin.readline():
        speed = product_speed("bfloat16" if engine.precision == "int8" else engine.precision)
        cpu, wall = time.process_time(), time.perf_counter()
        made = run()
        seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        sys.stdout.write("\n" + json.dumps(seconds | {"made": made, "peak": peak_mib(), "speed": speed}) + "\n")
        sys.stdout.flush()


def peak_mib() -> float:
    """Most memory this process has had; ru_maxrss starts from what the process that started it had."""
    lines = Path("/proc/self/status").read_text(encoding="utf8").splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kilobytes) / 1024


def started(number: int, path: Path, threads: int) -> "subprocess.Popen[str]":
    settings = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    settings["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [str(ENGINES[number].interpreter), "-W", "ignore", __file__, "--serve", str(number), str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, env=os.environ | settings | {"HF_HUB_OFFLINE": "1"}, text=True, **pipes)


def asked(process: "subprocess.Popen[str]") -> dict[str, float] | None:
    """One round of an engine; None if it does not run."""
    if process.poll() is not None or process.stdin is None or process.stdout is None:
        return None
    try:
        process.stdin.write("go\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    for line in process.stdout:
        if line.startswith('{"cpu"'):
            return json.loads(line)
    return None


def measured(load: str, numbers: Sequence[int], job: Job, threads: int, rounds: int) -> list[str]:
    """Rows of the table: every engine in turn, `rounds` times, after a turn that loads and warms up all of them."""
    path = Path(job["cache"]) / "job.json"
    path.write_text(json.dumps(job), encoding="utf8")
    processes = {number: started(number, path, threads) for number in numbers if load in ENGINES[number].loads}
    found: dict[int, list[dict[str, float]]] = {number: [] for number in processes}
    for turn in range(1 + rounds):
        for number, process in processes.items():
            if (seconds := asked(process)) is None:
                sys.stderr.write(f"left out: {ENGINES[number].name} {ENGINES[number].precision}\n")
            elif turn:
                found[number].append(seconds)
    for process in processes.values():
        process.terminate()
        process.wait()
    base = next((times for times in found.values() if times), [])
    return [row_of(load, ENGINES[number], job, threads, base, times) for number, times in found.items() if times]


def row_of(
    load: str,
    engine: Engine,
    job: Job,
    threads: int,
    base: Sequence[dict[str, float]],
    times: Sequence[dict[str, float]],
) -> str:
    """One line of the table, medians of the rounds."""
    prompt_tokens = sum(len(rows) for part in ("before", "soft", "after") for rows in job[part])
    shares = [
        (prompt_tokens * job["operations_per_token"] + one["made"] * decode_operations(job))
        / one["speed"]
        / one["wall"]
        for one in times
    ]
    ratios = [
        here["wall"] / one["made"] * one_base["made"] / one_base["wall"]
        for here, one, one_base in zip(times, times, base, strict=False)
    ]
    numbers = [
        f"{median(one['made'] / one['wall'] for one in times):.1f}",
        f"{median(one['made'] / one['cpu'] for one in times):.1f}",
        f"{median(one['wall'] for one in times):.1f}",
        f"{median(ratios):.2f}",
        "" if load in ("closed", "beams") or engine.precision == "int8" else f"{median(shares):.0%}",
        f"{max(one['peak'] for one in times):.0f}",
    ]
    return f"| {load} | {engine.name} | {engine.precision} | {threads} | " + " | ".join(numbers) + " |"


def decode_operations(job: Job) -> int:
    """Operations of one token that is read and predicts another."""
    return job["operations_per_token"] + job["operations_per_logits"]


HEAD = (
    "| load | engine | precision | threads | per second | per CPU second | seconds | x time of the first "
    "| share of bound | peak MiB |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", nargs="*", default=list(LOADS), choices=list(LOADS))
    parser.add_argument("--engines", nargs="*", help="names; all unless given")
    parser.add_argument("--precisions", nargs="*", default=["bfloat16", "float32", "int8"])
    parser.add_argument("--count", type=int, help="prompts of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        number, path = arguments.serve
        serve(ENGINES[int(number)], json.loads(Path(path).read_text(encoding="utf8")))
        return
    data = Path(os.environ["REAL_DATA"]) if os.environ.get("REAL_DATA") else None
    numbers = [
        number
        for number, engine in enumerate(ENGINES)
        if engine.precision in arguments.precisions
        and engine.name in (arguments.engines or [engine.name])
        and engine.interpreter
    ]
    sys.stdout.write(HEAD + "\n")
    with tempfile.TemporaryDirectory() as cache:
        for load in arguments.loads:
            job = job_of(load, arguments.count or LOADS[load], data, str(model_folder(arguments.model)))
            for threads in arguments.threads:
                for row in measured(load, numbers, job | {"cache": cache}, threads, arguments.rounds):
                    sys.stdout.write(row + "\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
