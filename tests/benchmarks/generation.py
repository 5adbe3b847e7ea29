r"""Time this engine against other ways to decode with the same frozen LLM on a CPU, alternating in one run.

    prompts of a load ─▶ a file ─▶ each engine in a process of its own, in turn, ROUNDS times ─▶ Markdown on stdout

    REAL_DATA=prepared VLLM_PYTHON=vllm-env/bin/python python tests/benchmarks/generation.py
    python tests/benchmarks/generation.py --loads closed --threads 1 --engines pplug "one forward per choice"

Loads: `headlines`, 128 prompts of LaMP_4 with at most 24 new tokens and soft prompts of 5 vectors; `plain`, the same
without soft prompts; `beams`, 48 with soft prompts and 4 beams; `queue`, 500 tasks of LaMP_4 and LaMP_5; `closed`, 29
choices for tasks of LaMP_2N, also with a plug that sees the LLM's values ("soft prompts ..."). REAL_DATA is a folder
with lamp/LaMP_4/dev_questions.json and so on; without it the prompts are made up. A new engine is a function and a line
in ENGINES. An engine that does not load is left out, with a line on stderr. A first round, in which all engines load
and warm up, is not counted.

vLLM (docs/vllm.md) runs in an environment of its own, which VLLM_PYTHON names; it forgets the prompts between rounds.
CTranslate2 and OpenVINO GenAI (decoding/plain_engines.py) run in another one, which RIVALS_PYTHON names:

    python3.11 -m venv rivals-env
    rivals-env/bin/pip install ctranslate2==4.8.5 openvino-genai==2026.4.1.0 optimum-intel==1.27.0 \
        transformers==4.57.6 torch==2.13.0
    REAL_DATA=prepared VLLM_PYTHON=vllm-env/bin/python RIVALS_PYTHON=rivals-env/bin/python \
        python tests/benchmarks/generation.py --loads plain
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from decoding.engines import ENGINES, Engine
from decoding.loads import LOADS, Job, job_of

from embedder.linear import PackedProjection
from embedder.models import model_folder


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
