"""The frozen LLM: answers requests with soft prompts, and tells how probable given answers are.

FrozenLLM ─▶ RequestReader (tokens)
          ─▶ CausalLM ─▶ LlamaTrunk or TransformersTrunk
          └▶ Seq2SeqLM
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from embedder.errors import PplugError, UsageError
from embedder.models import model_folder
from llm_jobs.engine import answering
from llm_jobs.engine.causal import CausalLM
from llm_jobs.engine.kv_cache import Prefix, values_width
from llm_jobs.engine.llama import LlamaTrunk, is_supported
from llm_jobs.engine.seq2seq import Seq2SeqLM
from llm_jobs.engine.trunk import TransformersTrunk, require_same_logits
from llm_jobs.memory import kv_bytes
from llm_jobs.prompts import Answer, Placement, PromptParts, Refusal, Request, SoftPrompt
from llm_jobs.request_reader import PROBE_TEXT, RequestReader

logger = logging.getLogger(__name__)

Ids = tuple[int, ...]

Dtype = Literal["float32", "bfloat16"]


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
    ) -> None:
        if num_beams < 1:
            raise UsageError(f"num_beams must be at least 1, not {num_beams}")
        self.num_beams = num_beams
        """Beams that free answers are decoded with; 1 is greedy."""
        self.model = model.eval().requires_grad_(False)
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        with torch.no_grad():
            table: Tensor = model.get_input_embeddings()(torch.arange(model.config.vocab_size, device=model.device))
        self.width = table.shape[1]
        self.embedding_norm = float(table.float().norm(dim=1).mean())
        """Mean L2 norm of the LLM's token embeddings: the scale a soft prompt should have."""
        untyped: Any = model
        self._reader = RequestReader.of(model.config, untyped.generation_config, tokenizer, self.width)
        self.format, self.context_length = self._reader.format, self._reader.context_length
        end_ids = self._reader.end_ids
        self.sha256 = self._reader.fingerprint(folder)
        """Fingerprint of the weights, prompt format and tokenizer; not of the precision, so a plug trained in bfloat16
        also answers in float32."""
        self._engine: CausalLM | Seq2SeqLM
        if self.is_encoder_decoder:
            self._engine = Seq2SeqLM(model, end_ids, num_beams)
            self.values_width = 0
            self.kv_memory = None
        else:
            trunk = LlamaTrunk(model) if is_supported(model) else TransformersTrunk(model)
            require_same_logits(trunk, model, self.format.header + self.format.token_ids(PROBE_TEXT))
            most = kv_bytes(memory, str(model.device))
            self._engine = CausalLM(trunk, end_ids, most, num_beams)
            self.kv_memory = None if model.dtype == torch.float32 else most
            """Bytes for keys and values where answers depend on them, so not in float32."""
            self.values_width = values_width(trunk.empty_prefix())
            """V, the length of `Prefix.pooled_values`; 0 for a sequence-to-sequence LLM, which has no prefixes."""
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
    ) -> Self:
        """Load an LLM by alias, folder or hub id (see embedder.models).

        Args:
            name: alias, local folder or downloaded hub id.
            dtype: precision; bfloat16 becomes float32 on a processor without bfloat16 instructions (see `kernel`).
            cache: folder for exported models.
            device: "cpu" or "cuda".
            memory: bytes that keys and values may take while a causal LLM answers; 2 GiB unless given.
            num_beams: beams that free answers are decoded with, as by `transformers` (engine/beams.py); 1 is greedy.

        Raises:
            InputMissing: if there is no such model here.
            UsageError: for an unknown precision, no beam, or a device that is not there.
            PplugError: if the model cannot be used.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        if dtype not in get_args(Dtype):
            raise UsageError(f"dtype must be one of {', '.join(get_args(Dtype))}, not {dtype!r}")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError(f"device {device}: torch {torch.__version__} sees no GPU: use --device cpu")
        folder = model_folder(name, cache)
        note = ""
        if dtype == "bfloat16" and not has_bfloat16(device):
            dtype, note = "float32", " (no bfloat16 instructions)"
            logger.warning("%s runs in float32: this processor has no bfloat16 instructions", name)
        local = {"local_files_only": True, "trust_remote_code": False}
        options = local | {"use_safetensors": True, "output_loading_info": True}
        try:
            config: Any = AutoConfig.from_pretrained(folder, **local)
            auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            model, report = auto.from_pretrained(folder, dtype=getattr(torch, dtype), **options)
            tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # RuntimeError: weights of another shape
            reason = " ".join(str(error).split())[:200]
            raise PplugError(f"model {name}: {folder} cannot be loaded ({reason}): choose another LLM") from error
        if missing := sorted(report["missing_keys"]):  # transformers makes them up at random
            raise PplugError(
                f"model {name}: {folder} lacks {len(missing)} weights ({missing[0]} ...): choose another LLM"
            )
        return cls(model.to(device), tokenizer, folder, note, memory, num_beams)

    def generate(
        self,
        prompts: Sequence[str],
        personas: Sequence[SoftPrompt | None] | None = None,
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
        embed: Any = self.model.get_input_embeddings()
        return embed(torch.tensor(ids, device=self.model.device)).float().cpu()

    def prefixes(self, befores: Sequence[Ids]) -> list[Prefix]:
        """What a causal LLM keeps of the tokens before the soft prompts; equal ones are computed once.

        Raises:
            PplugError: for a sequence-to-sequence LLM, which reads prompt and soft prompt together.
        """
        if isinstance(self._engine, Seq2SeqLM):
            raise PplugError("a sequence-to-sequence LLM has no prefixes: leave them out")
        return self._engine.prefixes(befores)

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
            prefixes: from `prefixes`, one per prompt; computed here if left out. Causal LLMs only.

        Returns:
            (B,) float32.
        """
        if isinstance(self._engine, Seq2SeqLM):
            return self._engine.answer_log_probs(parts, soft, answers)
        prefixes = self.prefixes([part.before for part in parts]) if prefixes is None else prefixes
        return self._engine.answer_log_probs(parts, soft, answers, prefixes)


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware; without that, float32 is faster and exact."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    instructions = torch.cpu.get_capabilities()
    return bool(instructions.get("avx512_bf16") or instructions.get("amx_bf16"))
