"""The frozen LLM in our own engine: answers requests with soft prompts, and tells how probable given answers are.

FrozenLLM ─▶ RequestReader (tokens)
          ─▶ CausalLM ─▶ LlamaTrunk or TransformersTrunk
          ├▶ UnpackedLM
          └▶ Seq2SeqLM
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from embedder.devices import LLMDtype, chosen_device, in_halves
from embedder.errors import PplugError, UsageError
from embedder.models import model_folder
from embedder.plain_text import load_tokenizer
from embedder.precision import decided_precision
from embedder.weights import load_config, load_weights, loading
from llm_jobs.engine.causal import CausalLM
from llm_jobs.engine.check import causal_engine, seq2seq_engine
from llm_jobs.engine.kv_cache import Prefix, values_width
from llm_jobs.engine.rules import Rules, require_known_decoding
from llm_jobs.engine.seq2seq import Seq2SeqLM
from llm_jobs.engine.unpacked import UnpackedLM
from llm_jobs.prompts import Answer, Ids, Placement, PromptParts, Refusal, Request
from llm_jobs.quantised import quantise
from llm_jobs.request_reader import PROBE_TEXT, RequestReader
from llm_jobs.tasks import AnsweringLLM

logger = logging.getLogger(__name__)

KV_BYTES: Final = 2 << 30
"""What keys and values may take unless told otherwise: a fixed amount, as in bfloat16 an answer depends on how many
others are computed with it."""

GPU_KV_BYTES: Final = 8 << 30  # the same on a GPU
VALUES_AT_ONCE: Final = 64  # prompts whose keys and values are held to pool their values

UNPACKED_QUANTISATION: Final = frozenset({"mxfp4"})
"""Quantised weights that `transformers` itself turns into bfloat16 where their kernels are missing."""

EMBEDDED_AT_ONCE: Final = 1 << 14  # token ids whose embeddings are measured together


class FrozenLLM(AnsweringLLM):
    """A causal or sequence-to-sequence LLM whose weights never change and never get a gradient."""

    engine: CausalLM | UnpackedLM | Seq2SeqLM

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
        untyped: Any = model.eval().requires_grad_(False)
        self.model, self.num_beams, self.thinking = model, num_beams, thinking
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        require_known_decoding(untyped.generation_config, type(model).__name__, num_beams)
        reader = RequestReader.of(model.config, untyped.generation_config, tokenizer, thinking=thinking)
        self.format = reader.format
        probe = self.format.header + self.format.token_ids(PROBE_TEXT)
        settings = reader.end_ids, Rules(model, reader.end_ids)
        if self.is_encoder_decoder:
            engine = seq2seq_engine(model, *settings, num_beams, probe)
        else:
            memory = memory or (KV_BYTES if model.device.type == "cpu" else GPU_KV_BYTES)
            engine = causal_engine(model, *settings, memory, num_beams, probe)
        self.width, self.embedding_norm = _measured_embeddings(model, engine)
        """E, and the mean L2 norm of the LLM's token embeddings: the scale a soft prompt should have."""
        self.has_prefixes = isinstance(engine, CausalLM)
        """Whether what stands before a soft prompt can be read once and kept."""
        if isinstance(engine, CausalLM):
            self.values_width = values_width(engine.trunk.empty_prefix())
            self.kv_memory = None if model.dtype == torch.float32 else engine.memory
        where = "" if model.device.type == "cpu" else f" {model.device.type}"
        kernel = f"{engine.kernel} {str(model.dtype).removeprefix('torch.')}{where}{note}"
        super().__init__(replace(reader, width=self.width), engine, reader.fingerprint(folder), kernel)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        dtype: LLMDtype = "float32",
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
                `auto` is the faster one, as measured here, and on a GPU bfloat16; float16 is for GPUs; int8 and int4
                are those of the weights (quantised.py).
            cache: folder for exported models.
            device: "cpu", "cuda", "mps", or "auto", the first that is there (see embedder.devices).
            memory: bytes that keys and values may take while a causal LLM answers; unless given 2 GiB, on a GPU 8.
            num_beams: beams that free answers are decoded with, as by `transformers` (engine/beams.py); 1 is greedy.
            thinking: lets the LLM think aloud before it answers, where its chat template has a switch for that.

        Raises:
            InputMissing: if there is no such model here.
            UsageError: for an unknown precision, no beam, or a device that is not there.
            PplugError: if the model cannot be used.
        """
        where = chosen_device(device)
        folder = model_folder(name, cache)
        precision = decided_precision(dtype, folder, device)
        note = " (no bfloat16 instructions)" if precision == "float32" and dtype not in ("auto", "float32") else ""
        with loading(name, "LLM"):
            model = _loaded(name, folder, getattr(torch, precision)).to(where).requires_grad_(False)
            tokenizer = load_tokenizer(folder)
        if dtype in ("int8", "int4"):
            quantise(model, dtype)
            note += f", weights {dtype}"
        return cls(model, tokenizer, folder, note, memory, num_beams, thinking=thinking)

    def generate(
        self,
        prompts: Sequence[str],
        personas: Sequence[Tensor | None] | None = None,
        max_new_tokens: int = 32,
        placement: Placement = Placement.BEFORE,
    ) -> list[Answer]:
        """Answer prompts, in their order.

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
        for row, answer in enumerate(self.answer(requests, placement)):
            if isinstance(answer, Refusal):
                raise PplugError(f"prompt {row} was refused: {answer.reason}: {answer.detail}")
            answers.append(answer)
        return answers

    def prefixes(self, befores: Sequence[Ids]) -> list[Prefix]:
        """Compute what a causal LLM keeps of the tokens before the soft prompts; equal ones are computed once.

        Without memory for all at once it is done in halves.

        Raises:
            PplugError: for an LLM that reads prompt and soft prompt together (see `has_prefixes`).
        """
        if not isinstance(self.engine, CausalLM):
            raise PplugError(f"an LLM that runs in {self.kernel} has no prefixes: leave them out")
        return [prefix for part in in_halves(self.engine.prefixes, befores) for prefix in part]

    def pooled_values(self, befores: Sequence[Ids]) -> Tensor:
        values: list[Tensor] = []
        for start in range(0, len(befores), VALUES_AT_ONCE):
            values += [prefix.pooled_values.cpu() for prefix in self.prefixes(befores[start : start + VALUES_AT_ONCE])]
        return torch.stack(values) if values else torch.zeros(0, self.values_width)

    def answer_log_probs(
        self,
        parts: Sequence[PromptParts],
        soft: Tensor,
        answers: Sequence[Ids],
        prefixes: Sequence[Prefix] | None = None,
    ) -> Tensor:
        """Average the log-probabilities of each answer's tokens, differentiable with respect to the soft prompts.

        Args:
            parts: B prompts.
            soft: soft prompts (B, S, E), S at least 1.
            answers: from `answer_ids`.
            prefixes: from `prefixes`, one per prompt; computed here if left out. Of no use to LLMs without prefixes.

        Returns:
            (B,) float32.
        """
        if not isinstance(self.engine, CausalLM):
            return self.engine.answer_log_probs(parts, soft, answers)
        prefixes = self.prefixes([part.before for part in parts]) if prefixes is None else prefixes
        return self.engine.answer_log_probs(parts, soft, answers, prefixes)


def _loaded(name: str, folder: Path, dtype: torch.dtype) -> Any:
    """Load the model of a folder; raises PplugError if its weights are quantised, missing, or no numbers."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = load_config(folder)
    quantised: Any = getattr(config, "quantization_config", None) or {}
    method = quantised.get("quant_method") if isinstance(quantised, dict) else getattr(quantised, "quant_method", None)
    if quantised and method not in UNPACKED_QUANTISATION:
        raise PplugError(
            f"model {name}: its weights are quantised ({method}), which pplug does not read: choose the "
            "checkpoint in bfloat16 or float32 that it was made from"
        )
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    # Embeddings concern single tokens, and so single requests, which are refused.
    return load_weights(auto, folder, config, dtype, name, "LLM", but_in=("embed", "lm_head"))


@torch.no_grad()
def _measured_embeddings(model: Any, engine: CausalLM | UnpackedLM | Seq2SeqLM) -> tuple[int, float]:
    """Measure width and mean L2 norm of the embeddings of all tokens."""
    ids = torch.arange(len(model.get_input_embeddings().weight), device=model.device)
    norms = [engine.embed(part).float().norm(dim=1) for part in ids.split(EMBEDDED_AT_ONCE)]
    return engine.embed(ids[:1]).shape[1], float(torch.cat(norms).mean())
