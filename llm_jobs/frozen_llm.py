"""The frozen LLM: answers requests with soft prompts, and tells how probable given answers are.

FrozenLLM ─▶ PromptFormat (tokens)
          ─▶ CausalLM ─▶ LlamaTrunk or TransformersTrunk
          └▶ Seq2SeqLM
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from embedder.errors import PplugError, UsageError
from embedder.models import fingerprint, model_folder

from . import answering
from .causal import CausalLM
from .kv_cache import Prefix
from .llama import LlamaTrunk, is_supported
from .prompts import Answer, Placement, PromptFormat, PromptParts, PromptRefused, Refusal, Request
from .seq2seq import Seq2SeqLM
from .trunk import TransformersTrunk, require_same_logits

logger = logging.getLogger(__name__)

Ids = tuple[int, ...]

PROBE_TEXT = "The market fell sharply today, said 3 of 5 économistes."
"""A plain text: how it is split into tokens and what the model makes of it tells models and tokenizers apart."""
Dtype = Literal["float32", "bfloat16"]


class FrozenLLM:
    """A causal or sequence-to-sequence LLM whose weights never change and never get a gradient."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, note: str = ""
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        self.format = PromptFormat.of(tokenizer, is_encoder_decoder=self.is_encoder_decoder)
        self.context_length = _context_length(model.config, tokenizer)
        self._end_ids = _end_ids(model, tokenizer)
        with torch.no_grad():
            table: Tensor = model.get_input_embeddings()(torch.arange(model.config.vocab_size, device=model.device))
        self.width = table.shape[1]
        self.embedding_norm = float(table.float().norm(dim=1).mean())
        """Mean L2 norm of the LLM's token embeddings: the scale a soft prompt should have."""
        probe = self.format.token_ids(PROBE_TEXT)
        self.sha256 = fingerprint(folder, header=self.format.header, footer=self.format.footer, probe=probe)
        """Fingerprint of the weights, prompt format and tokenizer; not of the precision, so a plug trained in bfloat16
        also answers in float32."""
        self._engine: CausalLM | Seq2SeqLM
        if self.is_encoder_decoder:
            self._engine = Seq2SeqLM(model, self._end_ids)
        else:
            trunk = LlamaTrunk(model) if is_supported(model) else TransformersTrunk(model)
            require_same_logits(trunk, model, self.format.header + self.format.token_ids(PROBE_TEXT))
            self._engine = CausalLM(trunk, self._end_ids)
        self.kernel = f"{self._engine.kernel} {str(model.dtype).removeprefix('torch.')}{note}"
        """Which code and precision runs, for the run record."""

    @classmethod
    def from_pretrained(
        cls, name: str, dtype: Dtype = "float32", cache: Path | None = None, device: str = "cpu"
    ) -> Self:
        """Load an LLM by alias, folder or hub id (see embedder.models).

        Args:
            name: alias, local folder or downloaded hub id.
            dtype: precision; bfloat16 becomes float32 on a processor without bfloat16 instructions (see `kernel`).
            cache: folder for exported models.
            device: "cpu" or "cuda".

        Raises:
            InputMissing: if there is no such model here.
            UsageError: for an unknown precision, or a device that is not there.
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
        return cls(model.to(device), tokenizer, folder, note)

    def generate(
        self,
        prompts: Sequence[str],
        personas: Sequence[Tensor | None] | None = None,
        max_new_tokens: int = 32,
        placement: Placement = Placement.BEFORE,
    ) -> list[Answer]:
        """Greedy answers in the order of the prompts.

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
        """Answers or refusals in the order of the requests; free ones greedily, closed ones by log-probability.

        An answer does not depend on the other requests: to the last bit in bfloat16 on a CPU with a Llama-like model,
        in float32 up to ties of two tokens within rounding.

        Raises:
            Exception: the model's own, if it fails on every request that could be put to it.
        """
        found: dict[int, Answer | Refusal] = {}
        prepared: dict[int, answering.Prepared] = {}
        for index, request in enumerate(requests):
            try:
                prepared[index] = self._prepare(index, request, placement)
            except PromptRefused as refused:
                found[index] = refused.refusal
        for index, outcome in answering.run(self._engine, list(prepared.values())).items():
            found[index] = answering.answer(prepared[index], outcome, self._text(requests[index], outcome))
        return [found[index] for index in range(len(requests))]

    def parts(self, prompt: str, placement: Placement, reserve: int) -> PromptParts:
        """Token ids of a prompt around the place of its soft prompt.

        Args:
            prompt: the task's input.
            placement: where the soft prompt goes.
            reserve: tokens of the context to keep free for the soft prompt and the answer.

        Raises:
            PromptRefused: if the prompt is empty, or nothing of it fits.
        """
        return self.format.parts(prompt, placement, self.context_length - reserve)

    def answer_ids(self, text: str) -> Ids:
        """Token ids of an answer, the end token included."""
        return (*self.format.token_ids(text), self._end_ids[0])

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

    def _prepare(self, index: int, request: Request, placement: Placement) -> answering.Prepared:
        soft = torch.empty(0, self.width) if request.persona is None else request.persona.detach()
        choices: tuple[Ids, ...] = ()
        if request.choices is not None:
            if not request.choices or not all(map(self.format.token_ids, request.choices)):
                raise PromptRefused("empty_choice", f"choices {list(request.choices)!r} hold one without tokens")
            choices = tuple(map(self.answer_ids, request.choices))
        longest = max(map(len, choices), default=request.max_new_tokens)
        parts = self.parts(request.prompt, placement, len(soft) + (0 if self.is_encoder_decoder else longest))
        return answering.Prepared(index, parts, soft, choices, request.max_new_tokens)

    def _text(self, request: Request, outcome: answering.Outcome) -> str:
        if request.choices is not None and outcome.choice is not None:
            return request.choices[outcome.choice]
        ids = () if isinstance(outcome.answer, Refusal) else outcome.answer.ids
        return str(self.format.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware; without that, float32 is faster and exact."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    instructions = torch.cpu.get_capabilities()
    return bool(instructions.get("avx512_bf16") or instructions.get("amx_bf16"))


def _context_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Most tokens of prompt and answer together (of the prompt, for an encoder)."""
    # Within the sliding window of a model that has one, it attends to everything, which is what our masks say.
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    limits = [getattr(config, "max_position_embeddings", None), window, tokenizer.model_max_length]
    return min([int(limit) for limit in limits if limit and limit < 1e9], default=512)  # T5 without one: trained on 512


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end an answer; the tokenizer's own, which closes given answers and choices, comes first.

    Raises:
        PplugError: if there is none.
    """
    untyped: Any = model
    known: int | list[int] | None = untyped.generation_config.eos_token_id
    own: Any = tokenizer.eos_token_id
    ids = [known] if isinstance(known, int) else (known or [own])
    ordered: list[int] = sorted(ids, key=lambda token: token != own)
    if ordered == [None]:
        raise PplugError(
            "neither the LLM nor its tokenizer names an end token (eos_token_id in generation_config.json)"
        )
    return tuple(ordered)
