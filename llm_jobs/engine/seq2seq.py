"""A frozen sequence-to-sequence LLM, run by `transformers`: the prompt with the soft prompt goes to the encoder.

Shapes: B rows, S soft prompt vectors, P prompt tokens with soft prompt, E width, A answer tokens, C choices.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from llm_jobs.engine.answering import Outcome, Prepared, best_choice
from llm_jobs.engine.beams import beam_search
from llm_jobs.engine.decoding import Decoded, Ids, greedy
from llm_jobs.engine.rules import Rules, decoder_start
from llm_jobs.prompts import PromptParts, Refusal

MAX_ROWS = 64
"""Rows per batch, one for each beam of a request. More make the matrix products no faster (measured: 64 rows run at 95%
of 1,024)."""
MAX_TOKENS = 8192
"""Padded tokens per batch, answers included; one request may have more."""


class Seq2SeqLM:
    """Encoder and decoder of one model; does for them what CausalLM does, without keeping anything between calls."""

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: Sequence[int],
        rules: Rules,
        num_beams: int = 1,
        *,
        scale: float = 1.0,
        alike: bool = False,
    ) -> None:
        self._model: Any = model
        self._rules, self._num_beams = rules, num_beams
        self._scale, self._alike = scale, alike
        self._device, self._dtype = model.device, model.dtype
        self._end_ids = torch.tensor(end_ids, device=self._device)
        self._start = decoder_start(self._model.generation_config)
        self.kernel = "transformers, prompts of one length" if alike else "transformers"

    def embed(self, ids: Tensor) -> Tensor:
        """(n, E) what the encoder makes of n token ids at first."""
        return self._model.get_input_embeddings()(ids) * self._scale

    def answer_log_probs(self, parts: Sequence[PromptParts], soft: Tensor, answers: Sequence[Ids]) -> Tensor:
        """Mean log-probability (B,) of each answer's tokens, differentiable with respect to `soft` (B, S, E)."""
        states, mask = self._encode(parts, soft)
        return self._log_probs(states, mask, answers)

    @torch.no_grad()
    def answer(self, requests: Sequence[Prepared]) -> list[Outcome]:
        """Outcomes in the order of the requests."""
        outcomes: dict[int, Outcome] = {}
        for batch in batches(requests, self._num_beams, alike=self._alike):
            parts = [request.parts for request in batch]
            soft = torch.stack([request.soft for request in batch])
            if batch[0].choices:
                scores = self._choose(parts, soft, [request.choices for request in batch])
                found = [best_choice(request.choices, row) for request, row in zip(batch, scores, strict=True)]
            else:
                found = [Outcome(ids) for ids in self._generate(batch, parts, soft)]
            outcomes |= zip((request.index for request in batch), found, strict=True)
        return [outcomes[request.index] for request in requests]

    @torch.no_grad()
    def step_logits(self, parts: Sequence[PromptParts], soft: Tensor, tokens: Sequence[int]) -> Tensor:
        """Logits (B, 2, V) of the first token of each answer and of the one behind `tokens`, step by step."""
        steps = _DecoderSteps(self._model, *self._encode(parts, soft))
        first = steps.next(torch.full((len(parts),), self._start, device=self._device))
        return torch.stack([first, steps.next(self._ids(tuple(tokens)))], dim=1)

    def _generate(
        self, requests: Sequence[Prepared], parts: Sequence[PromptParts], soft: Tensor
    ) -> list[Decoded | Refusal]:
        limits = [request.limit for request in requests]
        guides = [self._rules.guide(request.ids, request.limit) for request in requests]
        states, mask = self._encode(parts, soft)
        steps = _DecoderSteps(self._model, states, mask)
        first = steps.next(torch.full((len(parts),), self._start, device=self._device))
        if self._num_beams > 1:
            return beam_search(first, steps, limits, self._end_ids, guides, self._num_beams)
        return greedy(first, steps, limits, self._end_ids, guides)

    def _choose(self, parts: Sequence[PromptParts], soft: Tensor, choices: Sequence[tuple[Ids, ...]]) -> list[Tensor]:
        """Mean log-probability of every choice of every row (C,); the prompt is encoded once for all its choices."""
        states, mask = self._encode(parts, soft)
        found: list[Tensor] = []
        for row, ids in enumerate(choices):
            # The decoder's relative positions count slots, so a tree of choices does not fit: one row per choice.
            one = states[row : row + 1].expand(len(ids), -1, -1), mask[row : row + 1].expand(len(ids), -1)
            found.append(self._log_probs(*one, ids).cpu())
        return found

    def _encode(self, parts: Sequence[PromptParts], soft: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states (B, P, E) and their mask (B, P); a row's padding is at its end."""
        rows = [
            torch.cat([self.embed(self._ids(part.before)), vectors, self.embed(self._ids(part.after))])
            for part, vectors in zip(parts, soft.to(self._device, self._dtype), strict=True)
        ]
        embeds = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        mask = (torch.arange(embeds.shape[1], device=self._device) < lengths[:, None]).long()
        return self._model.get_encoder()(inputs_embeds=embeds, attention_mask=mask).last_hidden_state, mask

    def _log_probs(self, states: Tensor, mask: Tensor, answers: Sequence[Ids]) -> Tensor:
        inputs = [self._ids((self._start, *answer[:-1])) for answer in answers]
        logits = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True),
            use_cache=False,
        ).logits.float()  # (B, A, V)
        rows = [F.cross_entropy(row[: len(ids)], self._ids(ids)) for row, ids in zip(logits, answers, strict=True)]
        return -torch.stack(rows)

    def _ids(self, ids: Ids) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self._device)


class _DecoderSteps:
    """Decoding steps over the decoder's own cache."""

    def __init__(self, model: PreTrainedModel, states: Tensor, mask: Tensor) -> None:
        self._model: Any = model
        self._states, self._mask = states, mask
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def next(self, tokens: Tensor) -> Tensor:
        return (
            self._model(
                encoder_outputs=BaseModelOutput(last_hidden_state=self._states),
                attention_mask=self._mask,
                decoder_input_ids=tokens[:, None],
                past_key_values=self._cache,
                use_cache=True,
            )
            .logits[:, -1]
            .float()
        )

    def keep(self, rows: Tensor) -> None:
        self._states, self._mask = self._states[rows], self._mask[rows]
        self._cache.batch_select_indices(rows)

    def reorder(self, rows: Tensor) -> None:
        self._cache.self_attention_cache.batch_select_indices(rows)


def batches(requests: Sequence[Prepared], num_beams: int = 1, *, alike: bool = False) -> Iterator[list[Prepared]]:
    """Requests of one kind of work and one size of soft prompt each, longest first, within the budget.

    Args:
        requests: to be answered.
        num_beams: rows that a free answer takes.
        alike: only prompts of the same length go together.
    """

    def key(request: Prepared) -> tuple[bool, int, int, int]:
        return bool(request.choices), len(request.soft), request.prompt_tokens if alike else 0, request.tokens

    batch: list[Prepared] = []
    for request in sorted(requests, key=key, reverse=True):
        beams = 1 if request.choices else num_beams
        rows = (len(batch) + 1) * beams
        is_full = rows > MAX_ROWS or (batch and batch[0].tokens * rows > MAX_TOKENS)
        if batch and (is_full or key(request)[:3] != key(batch[0])[:3]):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch
