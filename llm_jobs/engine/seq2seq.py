"""A frozen sequence-to-sequence LLM, run by `transformers`: the prompt with the soft prompt goes to the encoder.

Shapes: B rows, P prompt tokens with soft prompt, E width, A answer tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from llm_jobs.engine.rules import decoder_start
from llm_jobs.engine.stepwise import StepwiseLM
from llm_jobs.prompts import Ids


class Seq2SeqLM(StepwiseLM):
    """Encoder and decoder of one model; a prompt is encoded once for all that may follow it."""

    def read(self, prompts: Sequence[Tensor]) -> "EncodedPrompts":
        embeds = pad_sequence(list(prompts), batch_first=True)
        lengths = torch.tensor([len(row) for row in prompts], device=embeds.device)
        mask = (torch.arange(embeds.shape[1], device=embeds.device) < lengths[:, None]).long()
        states = self.model.get_encoder()(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        return EncodedPrompts(self.model, states, mask)


class EncodedPrompts:
    """What the encoder made of prompts, and the decoder's own cache of what follows them."""

    def __init__(self, model: Any, states: Tensor, mask: Tensor) -> None:
        """Begin with states (B, P, E) and mask (B, P); a row's padding is at its end."""
        self._model, self._states, self._mask = model, states, mask
        self._start = decoder_start(model.generation_config)
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def next(self, tokens: Tensor | None = None) -> Tensor:
        tokens = self._mask.new_full((len(self._mask),), self._start) if tokens is None else tokens
        cached = {"past_key_values": self._cache, "use_cache": True}
        return self._logits(self._states, self._mask, tokens[:, None], **cached)[:, -1]

    def keep(self, rows: Tensor) -> None:
        self._states, self._mask = self._states[rows], self._mask[rows]
        self._cache.batch_select_indices(rows)

    def reorder(self, rows: Tensor) -> None:
        self._cache.self_attention_cache.batch_select_indices(rows)

    def log_probs(self, rows: Sequence[int], answers: Sequence[Ids]) -> Tensor:
        chosen, wanted = list(rows), [self._mask.new_tensor(answer) for answer in answers]
        inputs = [F.pad(ids[:-1], (1, 0), value=self._start) for ids in wanted]
        read = self._states[chosen], self._mask[chosen], pad_sequence(inputs, batch_first=True)
        logits = self._logits(*read, use_cache=False)  # (B, A, V)
        losses = [F.cross_entropy(row[: len(ids)], ids) for row, ids in zip(logits, wanted, strict=True)]
        return -torch.stack(losses)

    def _logits(self, states: Tensor, mask: Tensor, ids: Tensor, **more: Any) -> Tensor:
        encoded = BaseModelOutput(last_hidden_state=states)
        return self._model(encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=ids, **more).logits.float()
