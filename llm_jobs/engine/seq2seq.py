"""A frozen sequence-to-sequence LLM, run by `transformers`: the prompt with the soft prompt goes to the encoder.

Shapes: B rows, P prompt tokens with soft prompt, E width, A answer tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from llm_jobs.engine.rules import Rules, decoder_start
from llm_jobs.engine.stepwise import StepwiseLM
from llm_jobs.prompts import Ids


class Encoded(NamedTuple):
    """What the encoder made of prompts."""

    states: Tensor
    """(B, P, E)"""
    mask: Tensor
    """(B, P) a row's padding is at its end."""


class Seq2SeqLM(StepwiseLM):
    """Encoder and decoder of one model; a prompt is encoded once for all that may follow it."""

    def __init__(
        self, model: PreTrainedModel, end_ids: Sequence[int], rules: Rules, num_beams: int = 1, **ways: Any
    ) -> None:
        super().__init__(model, end_ids, rules, num_beams, **ways)
        self._start = decoder_start(self._model.generation_config)

    def read(self, prompts: Sequence[Tensor]) -> Encoded:
        embeds = pad_sequence(list(prompts), batch_first=True)
        lengths = torch.tensor([len(row) for row in prompts], device=self._device)
        mask = (torch.arange(embeds.shape[1], device=self._device) < lengths[:, None]).long()
        return Encoded(self._model.get_encoder()(inputs_embeds=embeds, attention_mask=mask).last_hidden_state, mask)

    def steps(self, read: Encoded) -> "DecoderSteps":
        return DecoderSteps(self._model, read, self._start)

    def repeated(self, read: Encoded, row: int, count: int) -> Encoded:
        return Encoded(*(part[row : row + 1].expand(count, *[-1] * (part.dim() - 1)) for part in read))

    def log_probs(self, read: Encoded, answers: Sequence[Ids]) -> Tensor:
        inputs = [self.tensor((self._start, *answer[:-1])) for answer in answers]
        logits = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=read.states),
            attention_mask=read.mask,
            decoder_input_ids=pad_sequence(inputs, batch_first=True),
            use_cache=False,
        ).logits.float()  # (B, A, V)
        rows = [F.cross_entropy(row[: len(ids)], self.tensor(ids)) for row, ids in zip(logits, answers, strict=True)]
        return -torch.stack(rows)


class DecoderSteps:
    """Decoding steps over the decoder's own cache."""

    def __init__(self, model: Any, encoded: Encoded, start: int) -> None:
        self._model, self._encoded, self._start = model, encoded, start
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def first(self) -> Tensor:
        return self.next(self._encoded.mask.new_full((len(self._encoded.mask),), self._start))

    def next(self, tokens: Tensor) -> Tensor:
        output = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self._encoded.states),
            attention_mask=self._encoded.mask,
            decoder_input_ids=tokens[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.logits[:, -1].float()

    def keep(self, rows: Tensor) -> None:
        self._encoded = Encoded(*(part[rows] for part in self._encoded))
        self._cache.batch_select_indices(rows)

    def reorder(self, rows: Tensor) -> None:
        self._cache.self_attention_cache.batch_select_indices(rows)
