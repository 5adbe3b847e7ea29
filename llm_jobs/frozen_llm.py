"""The frozen LLM: answers requests with soft prompts, and tells how probable given answers are.

FrozenLLM ─▶ RequestReader (tokens)
          ─▶ CausalLM ─▶ LlamaTrunk or TransformersTrunk
          ├▶ UnpackedLM
          └▶ Seq2SeqLM
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from embedder.errors import PplugError, UsageError
from embedder.fingerprints import require_finite
from embedder.models import model_folder
from embedder.plain_text import load_tokenizer
from embedder.precision import Dtype, decided_precision
from embedder.precision import has_bfloat16 as processor_has_bfloat16
from llm_jobs.engine import answering
from llm_jobs.engine.causal import CausalLM
from llm_jobs.engine.check import causal_engine, seq2seq_engine
from llm_jobs.engine.kv_cache import Prefix, values_width
from llm_jobs.engine.rules import Rules, require_known_decoding
from llm_jobs.engine.seq2seq import Seq2SeqLM
from llm_jobs.engine.unpacked import UnpackedLM
from llm_jobs.memory import kv_bytes
from llm_jobs.prompts import Answer, Placement, PromptParts, Refusal, Request
from llm_jobs.request_reader import PROBE_TEXT, RequestReader

logger = logging.getLogger(__name__)

Ids = tuple[int, ...]

VALUES_AT_ONCE = 64
"""Prompts whose keys and values are held to pool their values."""


LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
UNPACKED_QUANTISATION = frozenset({"mxfp4"})
"""Quantised weights that `transformers` itself turns into bfloat16 where their kernels are missing."""

EMBEDDED_AT_ONCE = 1 << 14
"""Token ids whose embeddings are measured together."""


class FrozenLLM:
    """A causal or sequence-to-sequence LLM whose weights never change and never get a gradient."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        note: str = "",
        memory: int | None = None,
        num_beams: int = 1,
        *,
        thinking: bool = False,
    ) -> None:
        if num_beams < 1:
            raise UsageError(f"num_beams must be at least 1, not {num_beams}")
        self.thinking = thinking
        self.num_beams = num_beams
        """Beams that free answers are decoded with; 1 is greedy."""
        self.model = model.eval().requires_grad_(False)
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        untyped: Any = model
        require_known_decoding(untyped.generation_config, type(model).__name__, num_beams)
        self._reader = RequestReader.of(model.config, untyped.generation_config, tokenizer, thinking=thinking)
        self.format, self.context_length = self._reader.format, self._reader.context_length
        end_ids = self._reader.end_ids
        self.sha256 = self._reader.fingerprint(folder)
        """Fingerprint of the weights, prompt format, tokenizer and decoding rules; not of the precision, so a plug
        trained in bfloat16 also answers in float32."""
        rules = Rules(model, end_ids)
        probe = self.format.header + self.format.token_ids(PROBE_TEXT)
        self._engine: CausalLM | UnpackedLM | Seq2SeqLM
        if self.is_encoder_decoder:
            self._engine = seq2seq_engine(model, end_ids, rules, num_beams, probe)
        else:
            most = kv_bytes(memory, str(model.device))
            self._engine = causal_engine(model, end_ids, rules, most, num_beams, probe)
        self.width, self.embedding_norm = self._measured_embeddings()
        """E, and the mean L2 norm of the LLM's token embeddings: the scale a soft prompt should have."""
        self._reader = replace(self._reader, width=self.width)
        self.has_prefixes = isinstance(self._engine, CausalLM)
        """Whether what stands before a soft prompt can be read once and kept."""
        self.values_width = 0
        """V, the length of `Prefix.pooled_values`; 0 for an LLM without prefixes."""
        self.kv_memory: int | None = None
        """Bytes for keys and values where answers depend on them, so not in float32."""
        if isinstance(self._engine, CausalLM):
            self.values_width = values_width(self._engine.trunk.empty_prefix())
            self.kv_memory = None if model.dtype == torch.float32 else self._engine.memory
        self.kernel = f"{self._engine.kernel} {str(model.dtype).removeprefix('torch.')}{note}"
        """Which code and precision runs, for the run record."""

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        dtype: Dtype = "float32",
        cache: Path | None = None,
        device: str = "cpu",
        memory: int | None = None,
        num_beams: int = 1,
        *,
        thinking: bool = False,
    ) -> Self:
        """Load an LLM by alias, folder or hub id (see embedder.models).

        Args:
            name: alias, local folder or downloaded hub id.
            dtype: precision; bfloat16 becomes float32 on a processor without bfloat16 instructions (see `kernel`);
                `auto` is the faster one, as measured here, and on a GPU bfloat16.
            cache: folder for exported models.
            device: "cpu" or "cuda".
            memory: bytes that keys and values may take while a causal LLM answers; 2 GiB unless given.
            num_beams: beams that free answers are decoded with, as by `transformers` (engine/beams.py); 1 is greedy.
            thinking: lets the LLM think aloud before it answers, where its chat template has a switch for that.

        Raises:
            InputMissing: if there is no such model here.
            UsageError: for an unknown precision, no beam, or a device that is not there.
            PplugError: if the model cannot be used.
        """
        if dtype not in get_args(Dtype):
            raise UsageError(f"dtype must be one of {', '.join(get_args(Dtype))}, not {dtype!r}")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError(f"device {device}: torch {torch.__version__} sees no GPU: use --device cpu")
        folder = model_folder(name, cache)
        note = ""
        if dtype == "auto":
            on_gpu = "bfloat16" if has_bfloat16(device) else "float32"
            dtype = on_gpu if device.startswith("cuda") else decided_precision(dtype, folder)
        if dtype == "bfloat16" and not has_bfloat16(device):
            dtype, note = "float32", " (no bfloat16 instructions)"
            logger.warning("%s runs in float32: this processor has no bfloat16 instructions", name)
        model: Any = _loaded(name, folder, getattr(torch, dtype))
        require_finite(model, name, but_in=("embed", "lm_head"))  # those concern single tokens, and so single requests
        tokenizer = _trying(name, folder, partial(load_tokenizer, folder))
        return cls(model.to(device), tokenizer, folder, note, memory, num_beams, thinking=thinking)

    def generate(
        self,
        prompts: Sequence[str],
        personas: Sequence[Tensor | None] | None = None,
        max_new_tokens: int = 32,
        placement: Placement = Placement.BEFORE,
    ) -> list[Answer]:
        """Answers in the order of the prompts.

        Raises:
            PplugError: if one of the prompts is refused (`answer` gives the refusal instead).
            UsageError: if max_new_tokens is not positive.
        """
        personas = [None] * len(prompts) if personas is None else personas
        requests = [
            Request(prompt, persona, max_new_tokens=max_new_tokens)
            for prompt, persona in zip(prompts, personas, strict=True)
        ]
        answers: list[Answer] = []
        for row, found in enumerate(self.answer(requests, placement)):
            if isinstance(found, Refusal):
                raise PplugError(f"prompt {row} was refused: {found.reason}: {found.detail}")
            answers.append(found)
        return answers

    def answer(self, requests: Sequence[Request], placement: Placement) -> list[Answer | Refusal]:
        """Answers or refusals in the order of the requests; closed ones by log-probability, with beams or without.

        In float32 an answer is the same whatever the other requests are, and that of `transformers`, up to two tokens
        whose logits are within 1e-4 (`Answer.tie_count`). In bfloat16 at least 98% are as if asked one by one.

        Raises:
            Exception: the model's own, if it fails on every request that could be put to it.
        """
        return self._reader.answer(requests, placement, partial(answering.run, self._engine))

    def parts(self, prompt: str, placement: Placement, reserve: int) -> PromptParts:
        """Token ids of a prompt around the place of its soft prompt.

        Args:
            prompt: the task's input.
            placement: where the soft prompt goes.
            reserve: tokens of the context to keep free for the soft prompt and the answer.

        Raises:
            PromptRefused: if the prompt is empty, or nothing of it fits.
        """
        return self._reader.parts(prompt, placement, reserve)

    def answer_ids(self, text: str) -> Ids:
        """Token ids of an answer, the end token included."""
        return self._reader.answer_ids(text)

    @torch.no_grad()
    def token_embeddings(self, ids: Ids) -> Tensor:
        """(n, E) the LLM's input embeddings of n tokens, on the CPU in float32."""
        return self._engine.embed(torch.tensor(ids, dtype=torch.long, device=self.model.device)).float().cpu()

    @torch.no_grad()
    def _measured_embeddings(self) -> tuple[int, float]:
        """Width and mean L2 norm of the embeddings of all tokens."""
        untyped: Any = self.model
        count = len(untyped.get_input_embeddings().weight)
        parts = torch.arange(count, device=self.model.device).split(EMBEDDED_AT_ONCE)
        norms = [(table := self._engine.embed(part)).float().norm(dim=1) for part in parts]
        return table.shape[1], float(torch.cat(norms).mean())

    def prefixes(self, befores: Sequence[Ids]) -> list[Prefix]:
        """What a causal LLM keeps of the tokens before the soft prompts; equal ones are computed once.

        Raises:
            PplugError: for an LLM that reads prompt and soft prompt together (see `has_prefixes`).
        """
        if not isinstance(self._engine, CausalLM):
            raise PplugError(f"an LLM that runs in {self.kernel} has no prefixes: leave them out")
        return self._engine.prefixes(befores)

    def pooled_values(self, befores: Sequence[Ids]) -> Tensor:
        """(n, V) the LLM's pooled values of the tokens before n soft prompts, on the CPU (engine/kv_cache.py).

        Raises:
            PplugError: for a sequence-to-sequence LLM, which has none.
        """
        found = list[Tensor]()
        for start in range(0, len(befores), VALUES_AT_ONCE):
            found += [prefix.pooled_values.cpu() for prefix in self.prefixes(befores[start : start + VALUES_AT_ONCE])]
        return torch.stack(found) if found else torch.zeros(0, self.values_width)

    def answer_log_probs(
        self,
        parts: Sequence[PromptParts],
        soft: Tensor,
        answers: Sequence[Ids],
        prefixes: Sequence[Prefix] | None = None,
    ) -> Tensor:
        """Mean log-probability of each answer's tokens, differentiable with respect to the soft prompts.

        Args:
            parts: B prompts.
            soft: soft prompts (B, S, E), S at least 1.
            answers: from `answer_ids`.
            prefixes: from `prefixes`, one per prompt; computed here if left out. Of no use to LLMs without prefixes.

        Returns:
            (B,) float32.
        """
        if not isinstance(self._engine, CausalLM):
            return self._engine.answer_log_probs(parts, soft, answers)
        prefixes = self.prefixes([part.before for part in parts]) if prefixes is None else prefixes
        return self._engine.answer_log_probs(parts, soft, answers, prefixes)


def _loaded(name: str, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a folder, with all its weights.

    Raises:
        PplugError: if it cannot be loaded, lacks weights, or has them quantised.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config: Any = _trying(name, folder, partial(AutoConfig.from_pretrained, folder, **LOCAL))
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        method = (
            quantised.get("quant_method") if isinstance(quantised, dict) else getattr(quantised, "quant_method", None)
        )
        if method not in UNPACKED_QUANTISATION:
            raise PplugError(
                f"model {name}: its weights are quantised ({method}), which pplug does not read: choose the "
                "checkpoint in bfloat16 or float32 that it was made from"
            )
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    options = LOCAL | {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    model, report = _trying(name, folder, partial(auto.from_pretrained, folder, **options))
    if missing := sorted(report["missing_keys"]):  # transformers makes them up at random
        raise PplugError(f"model {name}: {folder} lacks {len(missing)} weights ({missing[0]} ...): choose another LLM")
    return model


def _trying(name: str, folder: Path, load: Callable[[], Any]) -> Any:
    """What `load` returns, its failure in one line."""
    try:
        return load()
    except PplugError:
        raise
    except Exception as error:  # libraries raise whatever they like: a missing package, a shape, a key of a file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PplugError(f"model {name}: {folder} cannot be loaded ({reason}): choose another LLM") from error


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware; without that, float32 is faster and exact."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    return processor_has_bfloat16()
