"""CTranslate2 and OpenVINO GenAI on plain prompts, with greedy decoding: rivals that generation.py times.

    model ─▶ config as transformers 4 reads it ─▶ converted, once a run ─▶ engine ─▶ new token ids of each prompt

They read our token ids, so the chat template is ours. Neither takes soft prompts. They run in an environment of their
own (see generation.py), which lacks most of what pplug needs.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock

Ids = list[list[int]]
"""New tokens of each prompt, the end token included."""

CTRANSLATE2 = "ct2-transformers-converter --model {model} --output_dir {folder}"
OPENVINO = "optimum-cli export openvino --model {model} --task text-generation-with-past --weight-format fp32 {folder}"


def ctranslate2(job: dict[str, Any], compute_type: str, new_tokens: int) -> Callable[[], Ids]:
    """CTranslate2; the fastest of eight settings tried: chat header computed once, 4,096 tokens at a time.

    In float32 it gives our answers; in int8 hardly one of them, which no setting mends.
    """
    folder = converted(job, CTRANSLATE2)
    threads = int(os.environ["OMP_NUM_THREADS"])
    rival: Any = import_module("ctranslate2")
    generator = rival.Generator(str(folder), compute_type=compute_type, intra_threads=threads)
    words: list[str] = json.loads((folder / "vocabulary.json").read_text(encoding="utf8"))
    header, *others = {tuple(before) for before in job["before"]}
    if others:
        raise ValueError("the prompts begin in different ways")
    prompts = [[words[token] for token in after] for after in job["after"]]

    def run() -> Ids:
        results = generator.generate_batch(
            prompts,
            static_prompt=[words[token] for token in header],
            include_prompt_in_result=False,
            max_length=new_tokens,
            return_end_token=True,
            max_batch_size=4096,
            batch_type="tokens",
        )
        return [result.sequences_ids[0] for result in results]

    return run


def openvino(job: dict[str, Any], precision: str, new_tokens: int) -> Callable[[], Ids]:
    """OpenVINO GenAI with continuous batching; the fastest of five settings tried: 4,096 tokens a step.

    Keys and values have the precision of the rest: its default of 8 bits is no faster here and changes a third of the
    answers. Its prefix cache is off: it shares whole blocks of 32 tokens, which is more than the chat header has, and
    would remember the prompts from round to round.
    """
    rival: Any = import_module("openvino_genai")
    tensor: Any = import_module("openvino").Tensor
    array: Any = import_module("numpy").array
    scheduler = rival.SchedulerConfig()
    scheduler.cache_size = 1  # GB; 128 prompts in float32 take 0.6
    scheduler.max_num_batched_tokens = 4096
    threads = int(os.environ["OMP_NUM_THREADS"])
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "INFERENCE_NUM_THREADS": threads,
        "sampler_num_threads": threads,
    }
    pipeline = rival.ContinuousBatchingPipeline(str(converted(job, OPENVINO)), scheduler, "CPU", hints)
    config = pipeline.get_config()
    config.max_new_tokens = new_tokens
    pairs = zip(job["before"], job["after"], strict=True)
    prompts = [tensor(array([before + after], dtype="int64")) for before, after in pairs]

    def run() -> Ids:
        return [found.m_generation_ids[0] for found in pipeline.generate(prompts, [config] * len(prompts))]

    return run


def converted(job: dict[str, Any], command: str) -> Path:
    """The model as a rival reads it, made once a run by another process, whose memory is not counted."""
    program, *options = command.split()
    folder = Path(job["cache"]) / program
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            paths = {"model": older(Path(job["model"]), folder.with_suffix(".model")), "folder": folder}
            arguments = [Path(sys.executable).parent / program, *(option.format(**paths) for option in options)]
            subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    return folder


def older(model: Path, folder: Path) -> Path:
    """The model for transformers 4, which does not see the rotary base of version 5 and would take another."""
    config = json.loads((model / "config.json").read_text(encoding="utf8"))
    rotary = config.pop("rope_parameters")
    config |= {"rope_theta": rotary["rope_theta"], "rope_scaling": None if rotary["rope_type"] == "default" else rotary}
    tokenizer = json.loads((model / "tokenizer_config.json").read_text(encoding="utf8"))
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    changed = {"config.json": config, "tokenizer_config.json": tokenizer}
    folder.mkdir()
    for path in model.iterdir():
        if path.name in changed:
            (folder / path.name).write_text(json.dumps(changed[path.name]), encoding="utf8")
        else:
            (folder / path.name).symlink_to(path)
    return folder
