"""What the nightly job costs beyond the encoder: CPU seconds of `pplug encode`, and its memory.

    made-up users ─▶ pplug ingest ─┬─▶ the encoder alone, a process ─┐
       (distinct texts)            └─▶ pplug encode, a process ──────┴─▶ median ratio, peak memory ─▶ stdout

    python tests/benchmarks/encode_job.py --texts histories.jsonl more.jsonl.gz

The encoder's seconds are those of its `encode` call alone; the job's are those of its process from start to end, in
which loading (imports and weights) is told apart. The night that measures memory has many more items, of few words
each, and half of them are one user's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from shutil import copytree
from statistics import median

from encoder import made_up_texts, read_texts

NIGHT = "2026-11-02"
LARGEST_ORDINARY_USER = 400


@dataclass(frozen=True)
class Cost:
    """What a process used."""

    cpu_seconds: float
    peak_megabytes: float


def user_sizes(item_count: int, largest: int) -> Iterator[int]:
    """Items of one user with `largest` of them, then of ordinary ones: most have few, some hundreds."""
    draw = Random(1)
    left = item_count - largest
    yield from [largest] if largest else []
    while left:
        size = min(left, LARGEST_ORDINARY_USER, max(1, round(draw.lognormvariate(3.5, 1.0))))
        yield size
        left -= size


def history_lines(texts: Sequence[str], largest: int) -> Iterator[str]:
    """The texts as lines of a histories file."""
    rest = iter(texts)
    for user, size in enumerate(user_sizes(len(texts), largest)):
        for number in range(size):
            row = {
                "user_id": f"u{user:06}",
                "item_id": str(number),
                "kind": "LaMP_4",
                "posted_at": f"2026-10-{1 + number % 28:02}T00:00:00Z",
                "text": next(rest),
            }
            yield json.dumps(row) + "\n"


def few_words(count: int) -> list[str]:
    """`count` distinct texts of three words and a number."""
    words = " ".join(made_up_texts(1000)).split()
    draw = Random(2)
    return [f"{' '.join(draw.sample(words, 3))} {number}" for number in range(count)]


def cost_of(*command: str, output: Path | None = None) -> Cost:
    """Run a command on one thread.

    Raises:
        CalledProcessError: if it fails.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    settings = dict.fromkeys(names, "1") | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": paths}
    with (output or Path(os.devnull)).open("w") as file:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=file)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def pplug(*arguments: str) -> Cost:
    """Run the command line as a user would."""
    return cost_of(sys.executable, "-c", "from pipelines.cli import main; raise SystemExit(main())", *arguments)


def encode_alone(texts: Sequence[str], dtype: str) -> None:
    """What the process that the job is held against does; prints the CPU seconds of loading and of encoding."""
    from embedder import TextEncoder
    from llm_jobs.kinds import load_kinds

    kind = load_kinds({})["LaMP_4"]
    encoder = TextEncoder.from_pretrained("minilm", dtype=dtype)  # type: ignore[arg-type]  # argparse knows the two
    loaded = time.process_time()
    encoder.encode([kind.encoder_text(text, None) for text in texts])
    sys.stdout.write(json.dumps([loaded, time.process_time() - loaded]))


def ingested(folder: Path, texts: Sequence[str], largest: int = 0) -> Path:
    """A warehouse with the texts as histories."""
    file, warehouse = folder / "histories.jsonl", folder / "warehouse"
    file.write_text("".join(history_lines(texts, largest)), encoding="utf8")
    pplug("ingest", "histories", str(file), "--ds", NIGHT, "--warehouse", str(warehouse))
    return warehouse


def job(warehouse: Path, dtype: str) -> Cost:
    """The cost of the night, which is the warehouse's first; the warehouse itself stays as it is."""
    with tempfile.TemporaryDirectory(dir=warehouse.parent) as scratch:
        copy = copytree(warehouse, Path(scratch) / "warehouse")
        return pplug("encode", "--ds", NIGHT, "--warehouse", str(copy), "--dtype", dtype)


def side_by_side(folder: Path, texts: Sequence[str], dtype: str, rounds: int) -> str:
    """The encoder alone and the job in turn, as Markdown."""
    warehouse = ingested(folder, texts)
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf8")
    alone, found, loads = list[float](), list[Cost](), list[float]()
    for _ in range(rounds):
        command = (sys.executable, __file__, "--alone", str(folder / "texts.json"), "--dtype", dtype)
        cost_of(*command, output=folder / "seconds.json")
        loading, encoding = json.loads((folder / "seconds.json").read_text())
        loads.append(loading)
        alone.append(encoding)
        found.append(job(warehouse, dtype))
    seconds = [cost.cpu_seconds for cost in found]
    ratio = median(whole / part for whole, part in zip(seconds, alone, strict=True))
    return (
        f"| {len(texts)} distinct texts, {dtype}, 1 thread, median of {rounds} | CPU seconds | x encoder |\n"
        "|---|---|---|\n"
        f"| the encoder alone (loading it: {median(loads):.1f} s more) | {median(alone):.1f} | 1.00 |\n"
        f"| `pplug encode`, from start to end | {median(seconds):.1f} | {ratio:.2f} |\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, nargs="*", default=[], help="JSON lines, gzipped or not")
    parser.add_argument("--items", type=int, default=20_000, help="items of the night that is timed")
    parser.add_argument("--large-items", type=int, default=200_000, help="items of the night that measures memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone is not None:
        return encode_alone(json.loads(arguments.alone.read_text()), arguments.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.items:
            texts = read_texts(arguments.texts, arguments.items)
            texts += made_up_texts(arguments.items)[len(texts) :]
            sys.stdout.write(side_by_side(Path(scratch), texts, arguments.dtype, arguments.rounds))
        if arguments.large_items:
            large = ingested(Path(scratch), few_words(arguments.large_items), arguments.large_items // 2)
            cost = job(large, arguments.dtype)
            sys.stdout.write(f"\nPeak memory with {arguments.large_items} items: {cost.peak_megabytes:.0f} MB\n")
    return None


if __name__ == "__main__":
    main()
