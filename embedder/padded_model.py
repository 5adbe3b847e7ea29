"""Any transformers encoder: the texts of a batch padded to the longest."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from embedder.errors import PplugError
from embedder.pooling import pool
from embedder.text_settings import TextSettings

SEEN_PADDING = 0.02
"""Most that padding may turn a vector, 1 - cosine: rounding to bfloat16 turns it by a tenth of that."""


class PaddedModel:
    """A transformers encoder with padding.

    Shapes: n texts of l tokens in a run, d = width.
        runs     (l, n) int64 each: column = text
        returns  (sum of n, d) float32, pooled, not normalised, in the order of the columns
    """

    def __init__(self, model: Any, settings: TextSettings, pad_id: int) -> None:
        self._model, self._pooling, self._pad_id = model, settings.pooling, pad_id

    @torch.inference_mode()
    def __call__(self, runs: Sequence[Tensor]) -> Tensor:
        device = self._model.device
        texts = [text for run in runs for text in run.T]
        padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=self._pad_id)  # (n, l)
        lengths = torch.tensor([len(text) for text in texts])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        states = self._model(input_ids=padded.to(device), attention_mask=mask.to(device)).last_hidden_state  # (n, l, d)
        return torch.cat([pool(row[:length, None], self._pooling) for row, length in zip(states, lengths, strict=True)])


def require_unseen_padding(model: PaddedModel, ids: Sequence[int], name: str) -> None:
    """Refuse a model in which a text's vector depends on how much padding stands behind it (FNet has no mask).

    Raises:
        PplugError: naming the model.
    """
    long = torch.tensor(list(ids))[:, None]  # (l, 1)
    short = long[: max(1, len(ids) // 3)]
    alone, beside = model([short])[0], model([short, long])[0]
    if 1 - F.cosine_similarity(alone, beside, dim=0) > SEEN_PADDING:
        raise PplugError(
            f"model {name} does not tell padding from text, so that texts change each other: choose another"
        )
