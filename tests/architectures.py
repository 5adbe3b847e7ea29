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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
import transformers
from tiny_models import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from embedder.errors import PplugError
from llm_jobs import FrozenLLM
from llm_jobs.engine.small_copy import drawn, small_config
from llm_jobs.prompts import Answer, Placement, Request

DOCUMENT = Path(__file__).parent.parent / "docs" / "architectures.md"
SECONDS = 60
"""What a class may take."""
CLOSE = 2e-3
"""Difference of mean log-probabilities that rounding makes."""
CHOICES = ("arts & culture", "arts", "sports", "world news")

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


def requests_for(llm: FrozenLLM) -> list[Request]:
    """A queue of mixed lengths, some with soft prompts, some closed; the last ones grow beyond a length of 24."""
    generator = torch.Generator().manual_seed(0)

    def soft(size: int) -> torch.Tensor | None:
        vectors = torch.randn(size, llm.width, generator=generator)
        return vectors / vectors.norm(dim=1, keepdim=True) * llm.embedding_norm if size else None

    texts = [
        "which",
        "which news category does this article belong to " * 2,
        "arts and culture",
        "é 你好",
        "a b c d e f",
    ]
    sizes = (0, 2, 3, 0, 1)
    free = [Request(text, soft(size), None, 12) for text, size in zip(texts, sizes, strict=True)]
    closed = [Request(text, soft(size), CHOICES) for text, size in zip(texts, sizes, strict=True)]
    return [*free, *closed]


def differences(llm: FrozenLLM, reference: Any) -> Iterator[str]:
    """What the LLM answers differently from the model as transformers runs it."""
    requests = requests_for(llm)
    for request, answer in zip(requests, llm.answer(requests, Placement.AFTER), strict=True):
        kind = "closed" if request.choices else "free"
        kind += "" if request.persona is None else ", soft prompt"
        if not isinstance(answer, Answer):
            yield f"{kind}: {answer}"
        elif request.choices:
            scores = [closed_score(llm, reference, request, llm.answer_ids(choice)) for choice in request.choices]
            best = max(scores)
            if abs(answer.score - best) > CLOSE or scores[request.choices.index(answer.text)] < best - CLOSE:
                yield f"{kind}: {answer.text!r} {answer.score:.4f} where {best:.4f} is right"
        else:
            right = [free_answer(llm, reference, request)]
            if (
                request.persona is not None and not llm.is_encoder_decoder
            ):  # moshi's `generate` reads embeddings wrongly
                embeds = inputs_of(llm, request)["inputs_embeds"]
                right.append(slow_answer(llm, reference, embeds, request.max_new_tokens))
            told = [(llm.format.tokenizer.decode(ids, skip_special_tokens=True).strip(), score) for ids, score in right]
            if not answer.tie_count and not any(is_same(answer, *one) for one in told):
                text, score = told[0]
                yield f"{kind}: {answer.text!r} {answer.score:.4f} where {text!r} {score:.4f} is right"


def is_same(answer: Answer, text: str, score: float) -> bool:
    """Whether an answer is this one, up to rounding."""
    return answer.text == text and abs(answer.score - score) <= CLOSE


def inputs_of(llm: FrozenLLM, request: Request) -> dict[str, torch.Tensor]:
    """A prompt as transformers takes it: ids, or embeddings if it has a soft prompt."""
    parts = llm.parts(request.prompt, Placement.AFTER, 24)
    ids = torch.tensor([parts.before + parts.after])
    if request.persona is None:
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pieces = [llm.token_embeddings(parts.before), request.persona, llm.token_embeddings(parts.after)]
    embeds = torch.cat(pieces)[None]
    return {"inputs_embeds": embeds, "attention_mask": torch.ones(embeds.shape[:2], dtype=torch.long)}


def free_answer(llm: FrozenLLM, reference: Any, request: Request) -> tuple[list[int], float]:
    """What `generate` answers to one prompt, and its mean log-probability."""
    inputs = inputs_of(llm, request)
    if "inputs_embeds" in inputs and not llm.is_encoder_decoder:
        names = signature(reference.prepare_inputs_for_generation).parameters
        if "inputs_embeds" not in names:  # `generate` takes ids only
            return slow_answer(llm, reference, inputs["inputs_embeds"], request.max_new_tokens)
    said = reference.generate(
        **inputs,
        max_new_tokens=request.max_new_tokens,
        do_sample=False,
        num_beams=1,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.cat(said.logits).float()
    ids = said.sequences[0, -len(logits) :]
    return ids.tolist(), float(logits.log_softmax(1).gather(1, ids[:, None]).mean())


def slow_answer(llm: FrozenLLM, reference: Any, embeds: torch.Tensor, limit: int) -> tuple[list[int], float]:
    """The same by one plain pass over everything for each token."""
    ids, scores = list[int](), list[float]()
    while len(ids) < limit and not (ids and ids[-1] in reference.generation_config.eos_token_id):
        whole = torch.cat([embeds, llm.token_embeddings(tuple(ids))[None]], dim=1)
        best = reference(inputs_embeds=whole, use_cache=False).logits[0, -1].float().log_softmax(0).max(0)
        ids.append(int(best.indices))
        scores.append(float(best.values))
    return ids, sum(scores) / len(scores)


def closed_score(llm: FrozenLLM, reference: Any, request: Request, choice: tuple[int, ...]) -> float:
    """Mean log-probability of a choice from one plain pass."""
    inputs, targets = inputs_of(llm, request), torch.tensor(choice)
    if llm.is_encoder_decoder:
        start = reference.generation_config.decoder_start_token_id
        logits = reference(**inputs, decoder_input_ids=torch.tensor([[start, *choice[:-1]]])).logits[0]
    else:
        if "input_ids" in inputs:
            whole = {"input_ids": torch.cat([inputs["input_ids"], targets[None, :-1]], dim=1)}
        else:
            behind = llm.token_embeddings(choice[:-1])[None]
            whole = {"inputs_embeds": torch.cat([inputs["inputs_embeds"], behind], dim=1)}
        logits = reference(**whole, use_cache=False).logits[0, -len(choice) :]
    return float(logits.float().log_softmax(1).gather(1, targets[:, None]).mean())


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
