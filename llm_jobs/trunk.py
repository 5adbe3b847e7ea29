"""The layers of a causal LLM between token embeddings and logits, run by `transformers`' own model classes.

Shapes: B rows, Q new tokens per row, E width, V vocabulary, K slots looked at.
    embeds     (B, Q, E)
    positions  (B, Q)     counted from the start of the prompt
    mask       (B, Q, K)  true where a new token may look; even padding must look somewhere
    slots      (B, Q)     where keys and values of the new tokens are written
    returns    (B, Q, E)  hidden states after the last norm
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from embedder.errors import PplugError

from .kv_cache import KVCache, Prefix

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

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor, cache: KVCache, slots: Tensor | None) -> Tensor:
        """Hidden states.

        New keys and values are written to their slots, for K slots of the cache to be looked at. Without `slots` they
        are left to autograd: the new tokens then look at the cache's first `longest` slots and each other.
        """
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

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor, cache: KVCache, slots: Tensor | None) -> Tensor:
        # The lowest finite number, not -inf: a row of padding then gives some number instead of NaN.
        blocked = torch.zeros(mask.shape, dtype=embeds.dtype, device=embeds.device)
        blocked.masked_fill_(~mask, torch.finfo(embeds.dtype).min)
        past = mask.shape[2] if slots is not None else cache.longest
        layers: Any = [_SlotLayer(store[..., :past, :], slots) for store in cache.store]
        return self._decoder(
            inputs_embeds=embeds,
            attention_mask=blocked[:, None],
            position_ids=positions,
            past_key_values=Cache(layers=layers),
            use_cache=True,
        ).last_hidden_state


class _SlotLayer(DynamicLayer):
    """One layer of a KVCache, as `transformers` wants to see it."""

    def __init__(self, store: Tensor, slots: Tensor | None) -> None:
        super().__init__()
        self._store, self._slots = store, slots
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        return join(self._store, key_states, value_states, self._slots)

    def get_seq_length(self) -> int:
        return self._store.shape[3]


def join(store: Tensor, key: Tensor, value: Tensor, slots: Tensor | None) -> tuple[Tensor, Tensor]:
    """Keys and values to look at (B, H, K, D).

    Args:
        store: one layer's cached ones (2, B, H, cached slots, D).
        key: new ones (B, H, Q, D).
        value: new ones (B, H, Q, D).
        slots: where to write the new ones; None puts them behind the cached ones, in new memory.
    """
    if slots is None:
        return torch.cat([store[0], key], dim=2), torch.cat([store[1], value], dim=2)
    rows = torch.arange(len(slots), device=slots.device)[:, None]
    store[0][rows, :, slots], store[1][rows, :, slots] = key.transpose(1, 2), value.transpose(1, 2)
    return store[0], store[1]


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
    row = torch.tensor([ids], device=model.device)
    expected: Tensor = untyped(row).logits[0, -1].float()
    cache = KVCache.of([trunk.empty_prefix()], len(ids))
    hidden = trunk.embed(row[:, :0])
    try:
        for half in row.chunk(2, dim=1):
            count = half.shape[1]
            slots = cache.next_slots(count)
            hidden = trunk.forward(trunk.embed(half), slots, cache.causal_mask(count), cache, slots)
            cache.append(torch.tensor([count], device=model.device), count)
    except TypeError as error:
        raise PplugError(f"{name} takes no soft prompt or no mask ({error}): choose another LLM") from error
    difference = float((trunk.logits(hidden[0, -1]) - expected).abs().mean() / expected.std())
    if not difference < LOGIT_TOLERANCE:
        raise PplugError(f"{name} makes its logits in its own way (off by {difference:.2g} sigma): choose another LLM")
