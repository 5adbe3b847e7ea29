"""What an LLM reads of a request, token ids that fit its context, and what its tokens say. All engines see the same.

requests ─▶ prepare ─▶ (an engine) ─▶ render ─▶ answers
               └─▶ refusals ────────────┘
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from embedder.errors import PplugError
from embedder.fingerprints import fingerprint
from llm_jobs.engine.engine import Decoded, Prepared, Result
from llm_jobs.engine.rules import honoured_settings
from llm_jobs.prompts import (
    Answer,
    Ids,
    Placement,
    PromptFormat,
    PromptParts,
    PromptRefused,
    Refusal,
    Request,
    Turns,
    before_stop,
)

PROBE_TEXT = "The market fell sharply today, said 3 of 5 économistes."
"""A plain text: how it is split into tokens and what the model makes of it tells models and tokenizers apart."""


@dataclass(frozen=True)
class RequestReader:
    """What must be known of an LLM to put requests to it, without its weights."""

    format: PromptFormat
    end_ids: Ids  # tokens that end an answer; the first closes given answers and choices
    context_length: int
    is_encoder_decoder: bool
    rules: Mapping[str, Any]
    """Settings of the model that change how free answers are decoded (engine/rules.py)."""
    width: int = 0  # E, the length of a soft prompt vector

    @classmethod
    def of(
        cls,
        config: PreTrainedConfig,
        generation_config: Any,
        tokenizer: PreTrainedTokenizerBase,
        width: int = 0,
        *,
        thinking: bool = False,
    ) -> "RequestReader":
        """Read it off what comes with a model; `thinking` lets it think aloud first, where its chat template can."""
        is_encoder_decoder = bool(config.is_encoder_decoder)
        return cls(
            PromptFormat.of(tokenizer, is_encoder_decoder=is_encoder_decoder, thinking=thinking),
            _end_ids(generation_config.eos_token_id, tokenizer),
            _context_length(config, tokenizer),
            is_encoder_decoder,
            honoured_settings(generation_config),
            width,
        )

    def fingerprint(self, folder: Path) -> str:
        """Hash weights and settings in `folder`, the prompt format and the tokenizer."""
        probe = self.format.token_ids(PROBE_TEXT)
        return fingerprint(folder, header=self.format.header, footer=self.format.footer, probe=probe)

    def prepare(self, requests: Sequence[Request], placement: Placement) -> list[Prepared | Refusal]:
        """Turn requests into token ids, in their order; refuse those that cannot be put to the LLM."""
        prepared: list[Prepared | Refusal] = []
        for request in requests:
            try:
                prepared.append(self._prepared(request, placement))
            except PromptRefused as refused:
                prepared.append(refused.refusal)
        return prepared

    def render(self, prepared: Sequence[Prepared | Refusal], results: Sequence[Result]) -> list[Answer | Refusal]:
        """Say in words what an engine made of what `prepare` gave it."""
        return [
            one if isinstance(one, Refusal) else result if isinstance(result, Refusal) else self._answer(one, result)
            for one, result in zip(prepared, results, strict=True)
        ]

    def parts(self, prompt: str, placement: Placement, reserve: int, turns: Turns = ()) -> PromptParts:
        """Cut a prompt around the place of its soft prompt, with `reserve` tokens of the context left."""
        return self.format.parts(prompt, placement, self.context_length - reserve, turns)

    def answer_ids(self, text: str) -> Ids:
        """Split an answer into token ids, the end token included."""
        return (*self.format.token_ids(text), self.end_ids[0])

    def _prepared(self, request: Request, placement: Placement) -> Prepared:
        soft = torch.empty(0, self.width) if request.soft_prompt is None else request.soft_prompt
        choices: tuple[Ids, ...] = ()
        if request.choices is not None:
            if not request.choices or not all(map(self.format.token_ids, request.choices)):
                raise PromptRefused("empty_choice", "no choice, or one without tokens")
            choices = tuple(map(self.answer_ids, request.choices))
        longest = max(map(len, choices), default=request.max_new_tokens)
        reserve = len(soft) + (0 if self.is_encoder_decoder else longest)
        parts = self.parts(request.prompt, placement, reserve, request.turns)
        return Prepared(request, parts, soft.detach(), choices, () if choices else self.format.stop_ids(request.stop))

    def _answer(self, prepared: Prepared, decoded: Decoded) -> Answer:
        if decoded.choice is not None and prepared.request.choices:
            text, reason = prepared.request.choices[decoded.choice], "choice"
        else:
            said = str(self.format.tokenizer.decode(list(decoded.ids), skip_special_tokens=True))
            text = before_stop(said, prepared.request.stop).strip()
            reason = "eos" if decoded.has_ended or len(text) < len(said.strip()) else "length"
        return Answer(
            text=text,
            score=decoded.score,
            finish_reason=reason,
            prompt_tokens=prepared.prompt_tokens,
            output_tokens=len(decoded.ids),
            is_shortened=prepared.parts.is_shortened,
            tie_count=decoded.tie_count,
        )


CONTEXT_NAMES = (
    *("max_position_embeddings", "n_positions", "max_encoder_position_embeddings"),
    *("max_seq_len", "max_sequence_length", "seq_length", "n_ctx"),
)
"""What configurations call the most tokens a model reads. A sliding window is no limit: it only hides what is far."""


def _context_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Find the most tokens of prompt and answer together (of the prompt, for an encoder)."""
    untyped: Any = config
    text = untyped.get_text_config(encoder=True) if config.is_encoder_decoder else untyped.get_text_config(decoder=True)
    named = next((limit for name in CONTEXT_NAMES if (limit := getattr(text, name, None))), None)
    limits = [named, tokenizer.model_max_length]
    return min([int(limit) for limit in limits if limit and limit < 1e9], default=512)  # T5 without one: trained on 512


def _end_ids(known: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> Ids:
    """List the tokens that end an answer, `known` or the tokenizer's; its own comes first, closing answers and choices.

    Raises:
        PplugError: if there is none.
    """
    own: Any = tokenizer.eos_token_id
    ids = [known] if isinstance(known, int) else (known or [own])
    ordered: list[int] = sorted(ids, key=lambda token: token != own)
    if ordered == [None]:
        raise PplugError(
            "neither the LLM nor its tokenizer names an end token (eos_token_id in generation_config.json)"
        )
    return tuple(ordered)
