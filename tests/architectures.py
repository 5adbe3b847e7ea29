"""Try every causal and sequence-to-sequence class of the installed transformers; write docs/architectures.md.

    python tests/architectures.py                all classes, in about ten minutes
    python tests/architectures.py mistral t5     only these, whose rows are written anew

Each class is built from its default configuration made small (llm_jobs/engine/small_copy.py), with drawn weights, saved
and loaded as a user's folder would be. Free answers, closed answers and soft prompts of a queue of mixed lengths are
compared with `transformers.generate` and with a plain pass over one row at a time. A class is equal or refused;
whatever is answered differently is a fault of ours.
"""

import logging
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
import transformers
from as_in_transformers import differences
from tiny_models import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from embedder.errors import PplugError
from llm_jobs import FrozenLLM
from llm_jobs.engine.small_copy import drawn, small_config

DOCUMENT = Path(__file__).parent.parent / "docs" / "architectures.md"
SECONDS = 60
"""What a class may take."""
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 6.0, 8.0, 16.0],
    "original_max_position_embeddings": 24,
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]}
NEEDED: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"is_decoder": True},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
}
"""Settings without which the default configuration of a class makes no model."""
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "bert": {"decoder": {"is_decoder": True}},
    "falcon": {"alibi": {"alibi": True}, "new decoder": {"new_decoder_architecture": True, "num_kv_heads": 2}},
    "granite": {
        "scaled": {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.2},
    },
    "llama": {
        "dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}},
        "yarn": {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 24,
            }
        },
    },
    "mistral": {"no window": {"sliding_window": None}},
    "pegasus": {"scaled": {"scale_embedding": True}},
    "marian": {"scaled": {"scale_embedding": True}},
    "mbart": {"scaled": {"scale_embedding": True}},
    "phi3": {"longrope": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 24}},
    "qwen2": {"windows": WINDOWS},
    "qwen3": {"windows": WINDOWS},
    "roberta": {"decoder": {"is_decoder": True}},
}
"""Settings that make another model of a class."""


@dataclass(frozen=True)
class Found:
    """What became of one class."""

    name: str
    variant: str
    model_class: str
    result: str
    """equal, refused, not built, or DIFFERENT."""
    detail: str


def model_types() -> dict[str, Any]:
    """Every model type and its class for text: that of sequence-to-sequence if it has both."""
    causal, pairs = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    return dict(sorted((dict(causal) | dict(pairs)).items()))


def small_model(name: str, changes: Mapping[str, Any]) -> PreTrainedModel:
    """The class of a model type, small, whose windows are shorter than the prompts."""
    whole: Any = AutoConfig.for_model(name)
    model_class = class_of(whole)
    is_whole = isinstance(whole, getattr(model_class, "config_class", None) or type(whole))
    config = small_config(whole if is_whole else whole.get_text_config(), **NEEDED.get(name, {}), **changes)
    model = drawn(model_class, config)
    ends = [2, *range(200, 300)]
    model.generation_config.update(eos_token_id=ends, bos_token_id=1, pad_token_id=0)
    if config.is_encoder_decoder:
        model.generation_config.decoder_start_token_id = 3
    return model


def class_of(config: PreTrainedConfig) -> Any:
    """The class that an LLM's folder is loaded with."""
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    found = auto._model_mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def tried(name: str, variant: str, changes: Mapping[str, Any]) -> Found:
    """What becomes of one class."""
    model_class = str(model_types()[name])
    try:
        model = small_model(name, changes)
        model_class = type(model).__name__
    except Exception as error:
        return Found(name, variant, model_class, "not built", one_line(error))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        try:
            model.save_pretrained(folder)
            tiny_tokenizer(is_chat=False).save_pretrained(folder)
            reference = type(model).from_pretrained(folder, dtype=torch.float32).eval()
            ids = torch.arange(3, 43)[None]
            reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2)  # if it works at all
        except Exception as error:
            return Found(name, variant, model_class, "not built", one_line(error))
        try:
            llm = FrozenLLM.from_pretrained(folder)
        except PplugError as error:
            return Found(name, variant, model_class, "refused", one_line(error).replace(folder, "FOLDER"))
        except Exception as error:
            return Found(name, variant, model_class, "DIFFERENT", f"raw error at loading: {one_line(error)}")
        try:
            wrong = list(differences(llm, reference))
        except Exception as error:
            wrong = [f"the comparison failed: {one_line(error)}"]
    how = llm.kernel.removesuffix(" float32")
    return Found(name, variant, model_class, "DIFFERENT" if wrong else "equal", wrong[0] if wrong else how)


def one_line(error: Exception) -> str:
    """An exception in at most 160 characters."""
    return f"{'' if isinstance(error, PplugError) else type(error).__name__ + ': '}{' '.join(str(error).split())}"[:240]


def within_time(name: str, variant: str, changes: Mapping[str, Any]) -> Found:
    """The same in a process of its own, which ends after SECONDS."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=lambda: there.send(tried(name, variant, changes)))
    child.start()
    there.close()
    try:
        found = here.recv() if here.poll(SECONDS) else None
    except EOFError:
        return Found(name, variant, model_types()[name], "not built", "the process died")
    child.kill()
    child.join()
    return found or Found(name, variant, str(model_types()[name]), "not built", f"took more than {SECONDS} seconds")


def documented() -> list[Found]:
    """The rows of the document as it is."""
    rows: list[Found] = []
    for line in DOCUMENT.read_text("utf8").splitlines() if DOCUMENT.is_file() else []:
        if line.startswith("| `"):
            name, *rest = line.removeprefix("| ").removesuffix(" |").split(" | ", 3)
            kind, _, variant = name.partition(", ")
            rows.append(Found(kind.strip("`"), variant, *rest))
    return rows


def document(found: list[Found]) -> str:
    """The table as Markdown."""
    counts = {
        result: sum(one.result == result for one in found) for result in ("equal", "refused", "not built", "DIFFERENT")
    }
    lines = [
        "# Architectures",
        "",
        f"Every causal and sequence-to-sequence class of transformers {transformers.__version__}, built small from its "
        "default configuration with drawn weights, and loaded as an LLM. *Equal*: free answers are those of "
        "`transformers.generate`, and the scores of closed answers those of a plain pass over one row, with soft "
        "prompts and without, in a queue of mixed lengths and beyond every window. *Refused*: pplug says why when "
        "the model is loaded. *Not built*: the script found no small configuration; such a model is checked when it is "
        "loaded, like every other.",
        "",
        "How an equal one runs: `pplug llama` is our own forward pass, `transformers` the layers of that library over "
        "our cache; both answer a whole queue together. `prompts of one length` is slower: only prompts of the same "
        "length go together, because what the model makes of a token depends on more than the tokens before it.",
        "",
        f"{counts['equal']} equal, {counts['refused']} refused, {counts['not built']} not built, "
        f"{counts['DIFFERENT']} accepted and different.",
        "",
        "    python tests/architectures.py",
        "",
        "| model type | class | result | how, or why not |",
        "|---|---|---|---|",
    ]
    for one in found:
        name = f"`{one.name}`" + (f", {one.variant}" if one.variant else "")
        detail = one.detail.replace("|", "\\|")
        lines.append(f"| {name} | {one.model_class} | {one.result} | {detail} |")
    return "\n".join(lines) + "\n"


def main(names: list[str]) -> int:
    """Try the classes and say what was found; write the document if all were tried."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found: list[Found] = []
    for name in names or model_types():
        for variant, changes in ({"": {}} | VARIANTS.get(name, {})).items():
            found.append(within_time(name, variant, changes))
            print(*vars(found[-1]).values(), sep=" | ", flush=True)  # noqa: T201  a script
    rows = {(one.name, one.variant): one for one in [*(documented() if names else []), *found]}
    DOCUMENT.write_text(document([rows[key] for key in sorted(rows)]), "utf8")
    return int(any(one.result == "DIFFERENT" for one in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
