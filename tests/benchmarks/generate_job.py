"""What job 2 costs beyond the LLM: CPU seconds of `pplug generate`, and its memory by the length of the queue.

    histories, tasks ─▶ pplug ingest, encode ─┬─▶ the LLM alone on the same prompts, a process ─┐
    a plug with random weights ───────────────┴─▶ pplug generate, a process ────────────────────┴─▶ median ratio
    made-up tasks, a tiny LLM ─▶ pplug generate on a short and a long queue ─▶ peak memory of each

    python tests/benchmarks/generate_job.py --histories histories.jsonl --tasks tasks.jsonl more.jsonl

The LLM's seconds are those of its `answer` call alone; the job's are those of its process from start to end. Loading
(imports and weights) is measured in processes that do nothing else: of the LLM by itself, and of all that the job
needs. One thread, medians of the rounds. Without files both are made up.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from shutil import copytree
from statistics import median
from typing import Any, TypeVar, cast

import torch
from encode_job import NIGHT, Cost, cost_of, few_words, pplug
from encoder import made_up_texts

from embedder.devices import Dtype
from embedder.models import model_folder
from llm_jobs.answers import personal_requests
from llm_jobs.kinds import load_kinds
from llm_jobs.prompts import Answer, Placement, Request
from llm_jobs.training.fit import seeded_plug
from pipelines.answers.models import GenerateConfig, Models, load_models, load_plugs
from pipelines.answers.queue import personal_tasks, queued_tasks
from pipelines.nights.shards import cut_shards
from pipelines.personas.nights import newest_nights, nights_of
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse
from pipelines.train import plug_config

KINDS = load_kinds({})
ITEMS_PER_USER = 8
QUEUE = 1_000
"""Tasks of the short queue."""

Made = TypeVar("Made")

HEAD = (
    "| queue | encoder | the LLM alone, CPU s | loading it | `pplug generate`, CPU s | loading in it "
    "| x LLM | x LLM with its loading | x LLM, both without loading |\n|---|---|---|---|---|---|---|---|---|\n"
)

LLM_LOADING = "from llm_jobs import FrozenLLM; FrozenLLM.from_pretrained('smollm2', dtype='bfloat16')"
JOB_LOADING = """
from pipelines.command.boundary import prepare_environment
prepare_environment()
from pipelines.generate import GenerateConfig, load_models
load_models(GenerateConfig(dtype={dtype!r}))
"""


def lines_of(paths: Sequence[Path], count: int | None = None) -> list[str]:
    """The lines of some files, in turn from each."""
    files = [path.read_text(encoding="utf8").splitlines() for path in paths]
    turns = (file[at] for at in range(max(map(len, files), default=0)) for file in files if at < len(file))
    return list(islice(turns, count))


def item_lines(user_count: int) -> Iterator[str]:
    """Made-up headlines of so many users."""
    for number, text in enumerate(few_words(user_count * ITEMS_PER_USER)):
        user, posted = f"u{number % user_count:06}", "2026-10-01T00:00:00Z"
        row = {"user_id": user, "item_id": str(number), "kind": "LaMP_4", "posted_at": posted, "text": text}
        yield json.dumps(row | {"output": text})


def task_lines(texts: Sequence[str], user_count: int, choices: Sequence[str] | None) -> Iterator[str]:
    """Made-up tasks for so many users."""
    for number, text in enumerate(texts):
        row = {"task_id": f"t{number:06}", "user_id": f"u{number % user_count:06}", "kind": "LaMP_4"}
        row |= {"queued_at": f"{NIGHT}T00:00:00Z", "input": f"Generate a headline for the following article: {text}"}
        yield json.dumps(row | {"choices": choices})


def warehouse_with(folder: Path, items: Sequence[str], tasks: Sequence[str], dtype: Dtype) -> Path:
    """A warehouse with personas and a queue."""
    folder.mkdir(parents=True)
    warehouse = folder / "warehouse"
    for table, lines in (("histories", items), ("tasks", tasks)):
        file = folder / f"{table}.jsonl"
        file.write_text("\n".join(lines), encoding="utf8")
        pplug("ingest", table, str(file), "--ds", NIGHT, "--warehouse", str(warehouse))
    pplug("encode", "--ds", NIGHT, "--warehouse", str(warehouse), "--dtype", dtype)
    return warehouse


def plugs_for(folder: Path, config: GenerateConfig, kinds: Sequence[str]) -> list[Path]:
    """Plugs that were not trained: a night takes the same time with them."""
    models = load_models(config)
    folders = [folder / kind for kind in kinds]
    for kind, path in zip(kinds, folders, strict=True):
        seeded_plug(plug_config(KINDS[kind], models), seed=0).save_pretrained(path)
    return folders


def tiny_llm(folder: Path) -> str:
    """A folder with an LLM of random weights, two narrow layers, and the tokenizer of smollm2."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config: Any = AutoConfig.from_pretrained(model_folder("smollm2"))
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 32, 64, 2
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 16
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder("smollm2")).save_pretrained(folder)
    return str(folder)


def requests_of_night(
    warehouse: Path, night: date, plugs: Sequence[Path], models: Models
) -> Iterator[tuple[list[Request], Placement]]:
    """What the LLM is asked on a night, shard by shard and kind by kind."""
    tables, loaded = Warehouse(warehouse), load_plugs(plugs, models)
    with connect(tables) as db:
        counted = run_sql(db, "jobs/task_counts", {"ds": night}).to_pylist()
        counts = [(row["user_id"], row["task_count"], row["task_count"]) for row in counted]
        nights = newest_nights(nights_of(db), night, models.encoder.sha256).params
        for shard in cut_shards(counts, GenerateConfig().shard_tasks):
            users = shard.first_user, shard.last_user
            tasks = queued_tasks(db, night, nights, users, models.encoder.width)
            for kind, (plug, _) in loaded.items():
                personal = personal_tasks([task for task in tasks if task.kind == kind], KINDS, models.encoder)
                yield personal_requests(models.llm, plug, personal)[0], Placement(plug.config.placement)


def apart(make: Callable[..., Made], *arguments: Any) -> Made:
    """Call in a process of its own: a process inherits the peak of the one that starts it, so this one stays small."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(make, *arguments).result()


def answer_alone(warehouse: Path, dtype: Dtype, plugs: Sequence[Path]) -> None:
    """What the process that the job is held against does; prints the CPU seconds of answering, and the tokens."""
    models = load_models(GenerateConfig(dtype=dtype))
    answering = 0.0
    tokens = 0
    for requests, placement in requests_of_night(warehouse, date.fromisoformat(NIGHT), plugs, models):
        start = time.process_time()
        answers = models.llm.answer(requests, placement)
        answering += time.process_time() - start
        tokens += sum(answer.output_tokens for answer in answers if isinstance(answer, Answer))
    sys.stdout.write(json.dumps([answering, tokens]))


def generate(warehouse: Path, plugs: Sequence[Path], *options: str) -> Cost:
    """The cost of the night's first answers; the warehouse itself stays as it is."""
    with tempfile.TemporaryDirectory(dir=warehouse.parent) as scratch:
        copy = copytree(warehouse, Path(scratch) / "warehouse")
        folders = [part for plug in plugs for part in ("--plug", str(plug))]
        return pplug("generate", "--ds", NIGHT, "--warehouse", str(copy), *folders, *options)


def side_by_side(folder: Path, items: Sequence[str], tasks: Sequence[str], dtype: Dtype, rounds: int) -> str:
    """The LLM alone and the job in turn, with an encoder of one precision, as rows of the table."""
    kinds = sorted({json.loads(task)["kind"] for task in tasks})
    warehouse = warehouse_with(folder / "real", items, tasks, dtype)
    plugs = apart(plugs_for, folder / "plugs", GenerateConfig(dtype=dtype), kinds)
    rounds_of: list[tuple[float, float, float, float]] = []
    tokens = 0
    for _ in range(rounds):
        command = (sys.executable, __file__, "--alone", dtype, str(warehouse), *map(str, plugs))
        cost_of(*command, output=folder / "seconds.json")
        answering, tokens = json.loads((folder / "seconds.json").read_text())
        llm_load = cost_of(sys.executable, "-c", LLM_LOADING).cpu_seconds
        job_load = cost_of(sys.executable, "-c", JOB_LOADING.format(dtype=dtype)).cpu_seconds
        job = generate(warehouse, plugs, "--dtype", dtype).cpu_seconds
        rounds_of.append((answering, llm_load, job_load, job))
    alone, llm_load, job_load, whole = (median(values) for values in zip(*rounds_of, strict=True))
    times = median(job / llm for llm, _, _, job in rounds_of)
    loaded = median(job / (load + llm) for llm, load, _, job in rounds_of)
    rest = median((job - load) / llm for llm, _, load, job in rounds_of)
    return (
        f"| {len(tasks)} tasks of {', '.join(kinds)}, {tokens} tokens | {dtype} | {alone:.1f} | {llm_load:.1f} "
        f"| {whole:.1f} | {job_load:.1f} | {times:.2f} | {loaded:.2f} | {rest:.2f} |\n"
    )


def memory_of_queues(folder: Path, longest: int) -> Iterator[str]:
    """Peak memory of the job on a short queue and on a long one, with an LLM that takes no time."""
    llm = apart(tiny_llm, folder / "llm")
    plugs = apart(plugs_for, folder / "tiny-plugs", GenerateConfig(llm=llm), ["LaMP_4"])
    users = QUEUE // 2
    for count in (QUEUE, longest):
        tasks = list(task_lines(few_words(count), users, ["yes", "no"]))
        warehouse = warehouse_with(folder / str(count), list(item_lines(users)), tasks, "float32")
        peak = generate(warehouse, plugs, "--llm", llm).peak_megabytes
        yield f"Peak memory with {count} tasks: {peak:.0f} MB\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=Path, nargs="*", default=[], help="JSON lines, as for pplug ingest")
    parser.add_argument("--tasks", type=Path, nargs="*", default=[], help="JSON lines, as for pplug ingest")
    parser.add_argument("--count", type=int, default=500, help="tasks of the night that is timed")
    parser.add_argument("--queue", type=int, default=100_000, help="tasks of the long queue")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"], help="of the encoder")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        dtype, warehouse, *plugs = arguments.alone
        return answer_alone(Path(warehouse), cast(Dtype, dtype), [Path(plug) for plug in plugs])
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.count:
            tasks = lines_of(arguments.tasks, arguments.count)
            tasks = tasks or list(task_lines(made_up_texts(arguments.count), 100, None))
            items = lines_of(arguments.histories) or list(item_lines(100))
            sys.stdout.write(HEAD)
            for dtype in arguments.dtypes:
                sys.stdout.write(side_by_side(Path(scratch) / dtype, items, tasks, dtype, arguments.rounds))
                sys.stdout.flush()
            sys.stdout.write("\n")
        if arguments.queue:
            sys.stdout.writelines(memory_of_queues(Path(scratch), arguments.queue))
    return None


if __name__ == "__main__":
    main()
