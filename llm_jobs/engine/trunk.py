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
from llm_jobs.engine.packing import Batch, Group, Piece, blocked, pack

LOGIT_TOLERANCE = 0.25
"""Mean difference in standard deviations of the logits: SmolLM2 in bfloat16 is 0.05 off, a factor of 2 would be 0.4."""


class Trunk(Protocol):
    """What the engine needs of a causal LLM."""

    kernel: str
    """Which code runs."""
    width: int
    """E"""

    def embed(self, ids: Tensor) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def empty_prefix(self) -> Prefix: ...

    def read(self, embeds: Tensor, batch: Batch, cache: KVCache) -> Tensor:
        """Hidden states; keys and values of the tokens are written to the cache. Not differentiable."""
        ...

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor, cache: KVCache) -> Tensor:
        """Hidden states, differentiable; the cache is not written to."""
        ...


class TransformersTrunk:
    """Any decoder of `transformers` that takes embeddings, positions and a mask of its own."""

    def __init__(self, model: PreTrainedModel) -> None:
        untyped: Any = model
        self._decoder, self._head = untyped.get_decoder(), untyped.get_output_embeddings()
        self._embedding = untyped.get_input_embeddings()
        self._softcap: float | None = getattr(model.config, "final_logit_softcapping", None)
        self.kernel = "transformers"
        self.width = int(self._embedding.embedding_dim)
        self._empty = _empty_prefix(model)

    def embed(self, ids: Tensor) -> Tensor:
        return self._embedding(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(hidden).float()
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap

    def empty_prefix(self) -> Prefix:
        return self._empty

    def read(self, embeds: Tensor, batch: Batch, cache: KVCache) -> Tensor:
        return torch.cat([self._read_group(embeds, batch, group, cache) for group in batch.groups])

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor, cache: KVCache) -> Tensor:
        past = mask.shape[2] - embeds.shape[1]
        layers = [_PastLayer(store[..., :past, :]) for store in cache.store]
        return self._decode(embeds, positions, blocked(~mask, embeds.dtype), layers)

    def _read_group(self, embeds: Tensor, batch: Batch, group: Group, cache: KVCache) -> Tensor:
        rows, count, seen = group.mask.shape

        def rectangle(values: Tensor) -> Tensor:
            own = values[group.tokens]
            return own.view(rows, count, *own.shape[1:]) if group.pick is None else own[group.pick]

        slots = rectangle(batch.rows), rectangle(batch.slots)
        layers = [_SlotLayer(store, slots, seen) for store in cache.store]
        hidden = self._decode(rectangle(embeds), rectangle(batch.positions), group.mask, layers).flatten(0, 1)
        return hidden if group.back is None else hidden[group.back]

    def _decode(self, embeds: Tensor, positions: Tensor, mask: Tensor, layers: Sequence[DynamicLayer]) -> Tensor:
        return self._decoder(
            inputs_embeds=embeds,
            attention_mask=mask[:, None],
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


class _SlotLayer(_PastLayer):
    """One layer of a KVCache (2, R, H, N, D) that new tokens are written to: rows and slots (B, Q) each."""

    def __init__(self, store: Tensor, slots: tuple[Tensor, Tensor], seen: int) -> None:
        super().__init__(store)
        self._slots, self._seen = slots, seen

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        rows, slots = self._slots
        keys, values = self._store
        # A repeated last token is written twice, with the same numbers.
        keys[rows, :, slots], values[rows, :, slots] = key_states.transpose(1, 2), value_states.transpose(1, 2)
        return keys[:, :, : self._seen][rows[:, 0]], values[:, :, : self._seen][rows[:, 0]]

    def get_seq_length(self) -> int:
        return self._seen


def _empty_prefix(model: PreTrainedModel) -> Prefix:
    """The KV of no tokens; its shape is seen on one token, as configurations name it in many ways.

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


@torch.no_grad()
def require_same_logits(trunk: Trunk, model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Compare a trunk with the model it stands for, on some real tokens (at least 2), half of them from the cache.

    Raises:
        PplugError: if the model does more than the trunk (scales its logits, counts positions differently ...).
    """
    name, untyped = type(model).__name__, cast(Any, model)
    row = torch.tensor(ids, device=model.device)
    expected: Tensor = untyped(row[None]).logits[0, -1].float()
    cache = KVCache.empty(trunk.empty_prefix(), 1, len(ids))
    hidden, start = trunk.embed(row[:0]), 0
    try:
        for half in row.chunk(2):
            piece = Piece(0, start, trunk.embed(half))
            hidden, start = trunk.read(piece.embeds, pack([piece]), cache), start + len(half)
    except TypeError as error:
        raise PplugError(f"{name} takes no soft prompt or no mask ({error}): choose another LLM") from error
    difference = float((trunk.logits(hidden[-1:])[0] - expected).abs().mean() / expected.std())
    if not difference < LOGIT_TOLERANCE:
        raise PplugError(f"{name} makes its logits in its own way (off by {difference:.2g} sigma): choose another LLM")
