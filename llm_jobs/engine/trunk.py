"""The layers of a causal LLM between token embeddings and logits, run by `transformers`' own model classes.

Shapes: T new tokens, E width, V vocabulary; in training B rows, Q new tokens per row, P cached tokens.
    read     embeds (T, E), a batch of packing.py ─▶ (T, E) hidden states after the last norm
    forward  embeds (B, Q, E), positions (B, Q), mask (B, Q, P + Q) true where a token may look ─▶ (B, Q, E)
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from embedder.errors import PplugError
from llm_jobs.engine.kv_cache import KVCache, Prefix
from llm_jobs.engine.packing import Group, PackedBatch, masks_of, query_and_key_positions
from llm_jobs.engine.spans import EVERYTHING, Span, layer_spans


class Trunk(Protocol):
    """What the engine needs of a causal LLM."""

    kernel: str
    """Which code runs."""
    width: int
    """E"""
    spans: Sequence[Span]
    """The different ones of its layers: a batch has a mask for each."""

    def embed(self, ids: Tensor) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def empty_prefix(self) -> Prefix: ...

    def read(self, embeds: Tensor, batch: PackedBatch, cache: KVCache) -> Tensor:
        """Compute hidden states, not differentiable; keys and values of the tokens are written to the cache."""
        ...

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor, cache: KVCache) -> Tensor:
        """Compute hidden states, differentiable; the cache is not written to."""
        ...


class TransformersTrunk:
    """Any decoder of `transformers` that takes embeddings, positions and a mask of its own."""

    def __init__(self, model: PreTrainedModel, *, has_spans: bool = True, scale: float = 1.0) -> None:
        untyped: Any = model
        self._decoder, self._head = untyped.get_decoder(), untyped.get_output_embeddings()
        self._embedding, self._scale = untyped.get_input_embeddings(), scale
        config = model.config.get_text_config(decoder=True)
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._factor = float(getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1))
        self.kernel = "transformers"
        self.width = int(self._embedding.embedding_dim)
        self._empty = _empty_prefix(model)
        layers = len(self._empty.keys_values)
        spans = layer_spans(config, layers) if has_spans else [EVERYTHING]
        self.spans: Sequence[Span] = tuple(dict.fromkeys(spans))

    def embed(self, ids: Tensor) -> Tensor:
        return self._embedding(ids) * self._scale

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(hidden).float() * self._factor
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap

    def empty_prefix(self) -> Prefix:
        return self._empty

    def read(self, embeds: Tensor, batch: PackedBatch, cache: KVCache) -> Tensor:
        return torch.cat([self._read_group(embeds, batch, group, cache) for group in batch.groups])

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor, cache: KVCache) -> Tensor:
        past = mask.shape[2] - embeds.shape[1]
        layers = [_PastLayer(store[..., :past, :]) for store in cache.store]
        masks = masks_of(~mask, *query_and_key_positions(positions, mask), self.spans, embeds.dtype)
        return self._decode(embeds, positions, masks, layers)

    def _read_group(self, embeds: Tensor, batch: PackedBatch, group: Group, cache: KVCache) -> Tensor:
        rows, count, seen = group.masks[0].shape

        def rectangle(values: Tensor) -> Tensor:
            own = values[group.tokens]
            return own.view(rows, count, *own.shape[1:]) if group.pick is None else own[group.pick]

        cells = rectangle(batch.rows), rectangle(batch.cells)
        layers = [_CellLayer(store, cells, seen) for store in cache.store]
        hidden = self._decode(rectangle(embeds), rectangle(batch.positions), group.masks, layers).flatten(0, 1)
        return hidden if group.back is None else hidden[group.back]

    def _decode(
        self, embeds: Tensor, positions: Tensor, masks: Sequence[Tensor], layers: Sequence[DynamicLayer]
    ) -> Tensor:
        by_kind = {span.name: mask[:, None] for span, mask in zip(self.spans, masks, strict=True)}
        return self._decoder(
            inputs_embeds=embeds,
            attention_mask=by_kind if len(by_kind) > 1 else masks[0][:, None],
            position_ids=positions,
            past_key_values=Cache(layers=cast(Any, layers)),
            use_cache=True,
        ).last_hidden_state


class _PastLayer(DynamicLayer):
    """One layer of a KVCache (2, B, H, P, D), as `transformers` wants to see it; new tokens are put behind it."""

    def __init__(self, store: Tensor) -> None:
        super().__init__()
        self._store = store
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        return torch.cat([self._store[0], key_states], dim=2), torch.cat([self._store[1], value_states], dim=2)

    def get_seq_length(self) -> int:
        return self._store.shape[3]


class _CellLayer(_PastLayer):
    """One layer of a KVCache (2, R, H, N, D) that new tokens are written to: rows and cells (B, Q) each."""

    def __init__(self, store: Tensor, cells: tuple[Tensor, Tensor], seen: int) -> None:
        super().__init__(store)
        self._cells, self._seen = cells, seen

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        rows, cells = self._cells
        keys, values = self._store
        # A repeated last token is written twice, with the same numbers.
        keys[rows, :, cells], values[rows, :, cells] = key_states.transpose(1, 2), value_states.transpose(1, 2)
        return keys[:, :, : self._seen][rows[:, 0]], values[:, :, : self._seen][rows[:, 0]]

    def get_seq_length(self) -> int:
        return self._seen


def _empty_prefix(model: PreTrainedModel) -> Prefix:
    """Make the KV of no tokens; its shape is seen on one token, as configurations name it in many ways.

    Raises:
        PplugError: if the model keeps something else than keys and values of one shape in every layer.
    """
    decoder: Any = model.get_decoder()
    with torch.no_grad():
        output = decoder(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True)
    layers = getattr(getattr(output, "past_key_values", None), "layers", [])
    kept: list[Any] = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    shapes = {None if part is None else tuple(part.shape) for part in kept} or {None}
    shape = shapes.pop()
    if shapes or shape is None:
        raise PplugError(f"{type(model).__name__} does not keep keys and values of one shape: choose another LLM")
    return Prefix(torch.zeros(len(layers), 2, shape[1], 0, shape[3], dtype=model.dtype, device=model.device))
