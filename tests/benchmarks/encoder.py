"""Time this encoder against other ways to run the same model on a CPU, alternating in one run.

    texts ─▶ each encoder in turn, ROUNDS times ─▶ median ratios ─▶ Markdown table on stdout

    PYTHONPATH=. bench-env/bin/python tests/benchmarks/encoder.py --texts histories.jsonl more.jsonl.gz

Rivals that are not installed are left out, with a line on stderr. They are no dependencies of pplug; a venv of its own
with `pip install sentence-transformers "optimum-onnx[onnxruntime]" optimum-intel openvino ctranslate2` has them all.
CPU seconds are the signal: on a busy machine wall seconds measure the neighbours.
"""

import argparse
import gzip
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import copytree
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from embedder import TextEncoder
from embedder.models import model_folder
from embedder.pooling import Pooling
from embedder.text_settings import read_text_settings

Array = NDArray[np.float32]
Encode = Callable[[list[str]], Array]
Precision = Literal["float32", "bfloat16", "int8"]

BASELINE = "sentence-transformers"
TOKENS_PER_BATCH = 2048
"""Padded tokens in a batch of the rivals that come without an `encode` of their own."""

SHOWN_VERSIONS = ("torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2")


@dataclass(frozen=True)
class Row:
    """What was measured of one encoder, medians over the rounds."""

    name: str
    precision: Precision
    threads: int
    texts_per_second: float
    """Per CPU second."""
    wall_texts_per_second: float
    speed_up: float
    """Over the baseline, in CPU seconds of the same round."""
    ceiling_share: float | None
    """Useful operations per CPU second over those of a plain matrix product in the same round."""
    cosine_mean: float
    cosine_min: float


def read_texts(paths: Sequence[Path], count: int) -> list[str]:
    """`count` distinct texts drawn from JSON lines (`text` or `abstract`), or made up when there are no files."""
    if not paths:
        return made_up_texts(count)
    found: dict[str, None] = {}
    for path in paths:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rows = map(json.loads, content.splitlines())
        found.update(dict.fromkeys(text for row in rows if (text := row.get("text") or row.get("abstract"))))
    texts = list(found)
    random.Random(0).shuffle(texts)
    return texts[:count]


def made_up_texts(count: int) -> list[str]:
    """Runs of words of Python's own manual; their lengths are spread as those of real posts (log-normal)."""
    topics = import_module("pydoc_data.topics").topics
    words = " ".join(topics.values()).split()
    draw = random.Random(0)
    lengths = [min(150, max(3, round(draw.lognormvariate(3.4, 0.8)))) for _ in range(count)]
    starts = [draw.randrange(len(words) - 150) for _ in range(count)]
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def ours(folder: Path, threads: int) -> Iterator[tuple[str, Precision, Encode]]:
    for dtype in ("float32", "bfloat16"):
        encoder = TextEncoder.from_pretrained(str(folder), dtype=dtype)
        if dtype in encoder.kernel:
            yield "pplug", dtype, encoder.encode


def sentence_transformers(folder: Path, threads: int) -> Iterator[tuple[str, Precision, Encode]]:
    library = import_module("sentence_transformers")
    yield BASELINE, "float32", library.SentenceTransformer(str(folder), device="cpu").encode


def sentence_transformers_onnx(folder: Path, threads: int) -> Iterator[tuple[str, Precision, Encode]]:
    library, runtime = import_module("sentence_transformers"), import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    common = {"session_options": options, "provider": "CPUExecutionProvider"}

    def load(**how: Any) -> Any:
        return library.SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs=common | how)

    model = load(export=True)
    yield f"{BASELINE}, ONNX", "float32", model.encode
    library.export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(folder))
    yield f"{BASELINE}, ONNX", "int8", load(file_name="onnx/model_qint8_avx512_vnni.onnx", export=False).encode


def sentence_transformers_openvino(folder: Path, threads: int) -> Iterator[tuple[str, Precision, Encode]]:
    library = import_module("sentence_transformers")
    import_module("openvino")
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    options = {"ov_config": settings, "export": True}
    model = library.SentenceTransformer(str(folder), backend="openvino", device="cpu", model_kwargs=options)
    model.save_pretrained(str(folder))
    yield f"{BASELINE}, OpenVINO", "float32", model.encode


def openvino(folder: Path, threads: int) -> Iterator[tuple[str, Precision, Encode]]:
    core = import_module("openvino").Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "bf16"}
    model = core.compile_model(core.read_model(next(folder.rglob("openvino_model.xml"))), "CPU", settings)

    def states(batch: list[list[int]]) -> Array:
        width = max(map(len, batch))
        ids = np.array([tokens + [0] * (width - len(tokens)) for tokens in batch])
        mask = np.array([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens in batch])
        return model({"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids})[0]

    yield "OpenVINO", "bfloat16", pooled(folder, states)


def ctranslate2(folder: Path, threads: int) -> Iterator[tuple[str, Precision, Encode]]:
    library = import_module("ctranslate2")
    precisions: tuple[Precision, ...] = ("float32", "int8")
    for precision in precisions:
        target = str(folder / f"ctranslate2-{precision}")
        library.converters.TransformersConverter(str(folder)).convert(target, quantization=precision)
        encoder = library.Encoder(target, device="cpu", compute_type=precision, intra_threads=threads)
        yield (
            "CTranslate2",
            precision,
            pooled(folder, lambda batch, run=encoder.forward_batch: np.array(run(batch).last_hidden_state)),
        )


def pooled(folder: Path, states: Callable[[list[list[int]]], Array]) -> Encode:
    """An `encode` from what gives the padded token states: texts sorted by length, in batches of equal size."""
    tokenizer: Any = import_module("transformers").AutoTokenizer.from_pretrained(folder)
    settings = read_text_settings(folder)

    def encode(texts: list[str]) -> Array:
        ids: list[list[int]] = tokenizer(texts, truncation=True, max_length=settings.max_tokens)["input_ids"]
        order = sorted(range(len(texts)), key=lambda row: len(ids[row]))
        vectors: dict[int, Array] = {}
        while order:
            size = next((n for n in range(len(order), 0, -1) if n * len(ids[order[n - 1]]) <= TOKENS_PER_BATCH), 1)
            rows, order = order[:size], order[size:]
            for row, state in zip(rows, states([ids[row] for row in rows]), strict=True):
                vector = state[0] if settings.pooling == Pooling.CLS else state[: len(ids[row])].mean(0)
                vectors[row] = vector / np.linalg.norm(vector)
        return np.stack([vectors[row] for row in range(len(texts))])

    return encode


RIVALS = (
    sentence_transformers,
    ours,
    sentence_transformers_onnx,
    sentence_transformers_openvino,
    openvino,
    ctranslate2,
)


def product_speed(precision: Precision) -> float:
    """Operations per CPU second of torch's best matrix product, 4096x384 by 384x1536, as in a layer of MiniLM."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    x, weight, bias = torch.randn(4096, 384).to(dtype), torch.randn(1536, 384).to(dtype), torch.zeros(1536).to(dtype)
    ops = torch.ops.mkldnn
    packed = ops._reorder_linear_weight(weight, 4096)
    speeds: list[float] = []
    for _ in range(6):
        start = time.process_time()
        for _ in range(5):
            ops._linear_pointwise(x, packed, bias, "none", [], "")
        speeds.append(5 * 2 * 4096 * 384 * 1536 / (time.process_time() - start))
    return max(speeds)


def useful_operations(folder: Path, lengths: Sequence[int]) -> float:
    """Multiplications and additions of the model's matrix products over real tokens alone."""
    config = json.loads((folder / "config.json").read_text())
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    per_token = 2 * (4 * width * width + 2 * width * inner)
    return float(sum(layers * (length * per_token + 4 * length * length * width) for length in lengths))


def measure(folder: Path, texts: list[str], threads: int, rounds: int) -> list[Row]:
    """Time every encoder that can be loaded, in turn, `rounds` times."""
    encoders: list[tuple[str, Precision, Encode]] = []
    for rival in RIVALS:
        try:
            encoders += rival(folder, threads)
        except Exception as error:  # a rival that does not load on this machine must not stop the others
            sys.stderr.write(f"left out: {rival.__name__}: {type(error).__name__}: {' '.join(str(error).split())}\n")
    torch.set_num_threads(threads)
    vectors = {(name, precision): encode(texts) for name, precision, encode in encoders}  # warms up, too
    seconds: dict[tuple[str, Precision], list[tuple[float, float]]] = {encoder[:2]: [] for encoder in encoders}
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    ceilings: dict[Precision, list[float]] = {precision: [] for precision in precisions}
    for _ in range(rounds):
        for precision, found in ceilings.items():
            found.append(product_speed(precision))
        for name, precision, encode in encoders:
            cpu, wall = time.process_time(), time.perf_counter()
            encode(texts)
            seconds[name, precision].append((time.process_time() - cpu, time.perf_counter() - wall))
    lengths = TextEncoder.from_pretrained(str(folder)).token_counts(texts)
    operations = useful_operations(folder, lengths)
    sys.stderr.write(
        f"{len(texts)} texts, {sum(lengths)} tokens, longest {max(lengths)}; matrix product, {threads} threads: "
        + ", ".join(f"{key} {median(found) / 1e9:.0f} GFLOP per CPU second" for key, found in ceilings.items())
        + "\n"
    )
    base = (BASELINE if (BASELINE, "float32") in seconds else "pplug", "float32")
    rows: list[Row] = []
    for (name, precision), times in seconds.items():
        cosines = (vectors[name, precision] * vectors[base]).sum(1)
        ratios = [there[0] / here[0] for there, here in zip(seconds[base], times, strict=True)]
        shares = [
            operations / here[0] / ceiling for here, ceiling in zip(times, ceilings.get(precision, ()), strict=False)
        ]
        rows.append(
            Row(
                name,
                precision,
                threads,
                len(texts) / median(cpu for cpu, _ in times),
                len(texts) / median(wall for _, wall in times),
                median(ratios),
                median(shares) if shares else None,
                float(cosines.mean()),
                float(cosines.min()),
            )
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, fastest first."""
    lines = [
        f"| encoder | precision | threads | texts per CPU second | texts per second | x {BASELINE} | share of ceiling "
        "| cosine mean | cosine min |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row.threads, -row.speed_up)):
        name = f"**{row.name}**" if row.name == "pplug" else row.name
        share = "" if row.ceiling_share is None else f"{row.ceiling_share:.0%}"
        lines.append(
            f"| {name} | {row.precision} | {row.threads} | {row.texts_per_second:.0f} "
            f"| {row.wall_texts_per_second:.0f} | {row.speed_up:.2f} | {share} "
            f"| {row.cosine_mean:.6f} | {row.cosine_min:.5f} |"
        )
    return "\n".join(lines)


def about(arguments: argparse.Namespace) -> str:
    """Machine, date and command, so that the table can be repeated."""
    names = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    wanted = [line.split(":")[1].strip() for line in names if line.startswith(("model name", "cpu family", "model\t"))]
    found: list[str] = []
    for name in SHOWN_VERSIONS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    machine = " / ".join(dict.fromkeys(wanted)) or platform.processor()
    size = f"{arguments.count} texts, median of {arguments.rounds} rounds"
    return f"{datetime.now(UTC):%Y-%m-%d}; CPU {machine}; {', '.join(found)}; {size}"


def run_with_threads(threads: int) -> list[Row]:
    """Run this script once more with so many OpenMP threads: libraries read their number when they load."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    settings = dict.fromkeys(names, str(threads)) | {
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
    }
    command = [sys.executable, "-W", "ignore", *sys.argv, "--measure", str(threads)]
    output = subprocess.run(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [Row(**row) for row in json.loads(output.splitlines()[-1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, nargs="*", default=[], help="JSON lines, gzipped or not")
    parser.add_argument("--count", type=int, default=2000, help="texts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is None:
        rows = [row for threads in arguments.threads for row in run_with_threads(threads)]
        sys.stdout.write(f"{about(arguments)}\n\n{table(rows)}\n")
        return
    texts = read_texts(arguments.texts, arguments.count)
    with tempfile.TemporaryDirectory() as scratch:  # rivals write converted models beside the original
        folder = copytree(model_folder(arguments.model), Path(scratch) / "model")
        rows = measure(folder, texts, arguments.measure, arguments.rounds)
    sys.stdout.write("\n" + json.dumps([asdict(row) for row in rows]) + "\n")


if __name__ == "__main__":
    main()
