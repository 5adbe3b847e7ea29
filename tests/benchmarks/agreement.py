"""How many answers depend on what else is in the queue: all prompts at once against one by one.

    prompts of a load ─┬─▶ FrozenLLM.answer, all at once ──┐
                       └─▶ FrozenLLM.answer, one by one ───┴─▶ share of equal answers, of closed ones too

    REAL_DATA=prepared python tests/benchmarks/agreement.py --threads 1

The prompts and soft prompts are those of generation.py, or those of a warehouse and its plugs with --warehouse. In
float32 answers differ only where two logits are within 1e-4, in bfloat16 at least 98% are promised to be equal.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from decoding.engines import requests_of
from decoding.loads import LOADS, job_of
from generate_job import requests_of_night

from embedder.devices import Dtype
from embedder.models import model_folder
from llm_jobs import FrozenLLM
from llm_jobs.prompts import Answer, Placement, Request
from pipelines.answers.models import GenerateConfig, load_models


def answers_of(llm: FrozenLLM, requests: Sequence[Request], placement: Placement) -> list[Answer]:
    """The answers; no request of a benchmark is refused."""
    return [answer for answer in llm.answer(requests, placement) if isinstance(answer, Answer)]


def agreement(llm: FrozenLLM, requests: Sequence[Request], placement: Placement) -> str:
    """One line: answers that are the same both ways, and how many of the others are told to depend on a tie."""
    together = answers_of(llm, requests, placement)
    alone = [answer for request in requests for answer in answers_of(llm, [request], placement)]
    pairs = list(zip(together, alone, strict=True))
    others = [one for one, other in pairs if one.text != other.text]
    tied = sum(one.tie_count > 0 for one in others)
    equal = len(pairs) - len(others)
    return f"{equal} of {len(pairs)} equal ({equal / len(pairs):.1%}), {tied} of the others with a tie"


def personal(folder: Path, ds: date, plug: Path, dtype: Dtype, count: int) -> str:
    """The same for the first tasks of a night with the personas of their users."""
    models = load_models(GenerateConfig(llm_dtype=dtype))
    requests, placement = next(requests_of_night(folder, ds, [plug], models))
    if not isinstance(models.llm, FrozenLLM):
        raise TypeError(models.llm)
    return agreement(models.llm, requests[:count], placement)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", nargs="*", default=["headlines", "closed"], choices=list(LOADS))
    parser.add_argument("--count", type=int, help="prompts of each load")
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16", "float32"], choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warehouse", type=Path, help="answer its tasks instead, with --ds and --plug")
    parser.add_argument("--ds", type=date.fromisoformat)
    parser.add_argument("--plug", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.warehouse:
        for dtype in arguments.dtypes:
            line = personal(arguments.warehouse, arguments.ds, arguments.plug, dtype, arguments.count or 128)
            sys.stdout.write(f"{arguments.plug.name}, {dtype}: {line}\n")
        return
    data = Path(os.environ["REAL_DATA"]) if os.environ.get("REAL_DATA") else None
    folder = str(model_folder("smollm2"))
    for load in arguments.loads:
        job = job_of(load, arguments.count or LOADS[load], data, folder)
        requests = requests_of(job)
        for dtype in arguments.dtypes:
            llm = FrozenLLM.from_pretrained(folder, dtype=dtype, num_beams=job["beams"])
            sys.stdout.write(f"{load}, {dtype}: {agreement(llm, requests, Placement.BEFORE)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
