"""Our own forward pass of Llama-like decoders, for speed; the weights stay where `transformers` loaded them.

    embeds ─▶ [ norm ─▶ q k v ─▶ rotate ─▶ attention ─▶ + ─▶ norm ─▶ silu(gate) · up ─▶ down ─▶ + ] x layers ─▶ norm

Faster than `transformers` on a CPU, because tokens are not padded, the heads that share keys are one matrix (no copies
of the cache), and weights are laid out for the processor (a second copy, made when something is read for the first
time). In training, because the backward of torch's fused CPU attention is ten times slower than plain matrix products
(27 ms against 2.8 ms per layer for 32 rows, 13 new tokens and 60 cached ones).

Shapes: T tokens, B rows, Q new tokens, K cells (cached and new), H key/value heads, G query heads for each, D width
of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from embedder.linear import Projection, projection_class
from llm_jobs.engine.kv_cache import KVCache, Prefix
from llm_jobs.engine.packing import Group, PackedBatch, masks_of, query_and_key_positions
from llm_jobs.engine.spans import EVERYTHING, Span, layer_spans

MODEL_TYPES = frozenset({"llama", "mistral", "qwen2"})
"""Decoders with exactly these layers; everything else goes through TransformersTrunk."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """Weights of one decoder layer; joined ones share memory with those of `transformers`."""

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


class _PackedLayer:
    """The same matrices for reading."""

    def __init__(self, layer: _Layer, kind: type[Projection]) -> None:
        gate, up = layer.gate_up.chunk(2)
        self.norm, self.mlp_norm = layer.norm, layer.mlp_norm
        self.qkv, self.out = kind(layer.qkv, layer.qkv_bias), kind(layer.out)
        self.gate, self.up, self.down = kind(gate), kind(up), kind(layer.down)


class LlamaTrunk:
    """A Trunk (see trunk.py) for the model types named above."""

    def __init__(self, model: PreTrainedModel) -> None:
        untyped: Any = model
        config, decoder, self._head = untyped.config, untyped.model, untyped.lm_head.weight
        self.width = int(config.hidden_size)
        self._heads = int(config.num_key_value_heads)
        self._group = int(config.num_attention_heads) // self._heads
        self._head_width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        self._eps = float(config.rms_norm_eps)
        self._layers = [_layer(layer) for layer in decoder.layers]
        self._norm: Tensor = decoder.norm.weight
        self._rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = decoder.rotary_emb
        self._embedding: nn.Embedding = decoder.embed_tokens
        spans = [EVERYTHING] if config.model_type == "llama" else layer_spans(config, len(self._layers))
        self.spans: Sequence[Span] = tuple(dict.fromkeys(spans))
        self._span_of = [self.spans.index(span) for span in spans * (len(self._layers) // len(spans))]
        self.kernel = "pplug llama"
        self._is_fused = self._norm.device.type != "cpu"
        """Attention in one kernel, which a GPU is fast at."""

    def embed(self, ids: Tensor) -> Tensor:
        return self._embedding(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        if hidden.requires_grad:
            return F.linear(hidden, self._head).float()
        return self._packed_head(hidden).float()

    @cached_property
    def _packed_head(self) -> Projection:
        return projection_class(self._head)(self._head)

    @cached_property
    def _packed_layers(self) -> list[_PackedLayer]:
        kind = projection_class(self._norm)
        return [_PackedLayer(layer, kind) for layer in self._layers]

    def empty_prefix(self) -> Prefix:
        weight = self._norm
        return Prefix(weight.new_zeros(len(self._layers), 2, self._heads, 0, self._head_width))

    def read(self, embeds: Tensor, batch: PackedBatch, cache: KVCache) -> Tensor:
        turn = self._turn(embeds, batch.positions)
        first_head = (batch.rows[:, None] * self._heads + torch.arange(self._heads, device=embeds.device)) * cache.cells
        places = (first_head + batch.cells[:, None]).flatten()  # (T H) in a layer's store as one matrix (R H N, D)
        hidden = embeds
        for layer, store, span in zip(self._packed_layers, cache.store, self._span_of, strict=True):
            normed = self._normed(hidden, layer.norm)
            query, key, value = self._query_key_value(layer.qkv(normed), turn)  # (T, heads, D) each
            for new, old in zip((key, value), store, strict=True):
                old.view(-1, self._head_width).index_copy_(0, places, new.reshape(-1, self._head_width))
            query *= self._head_width**-0.5
            attended = [self._attend_group(query[group.tokens], store, group, span) for group in batch.groups]
            hidden = layer.out.plus(attended[0] if len(attended) == 1 else torch.cat(attended), hidden)
            normed = self._normed(hidden, layer.mlp_norm)
            hidden = layer.down.plus(layer.up.times(normed, layer.gate.silu(normed)), hidden)
        return self._normed(hidden, self._norm)

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor, cache: KVCache) -> Tensor:
        rows, count, _ = embeds.shape
        turn = self._turn(embeds.flatten(0, 1), positions.flatten())
        added = [
            blocking[:, None].expand(-1, self._group, -1, -1).flatten(1, 2)[:, None]
            for blocking in masks_of(~mask, *query_and_key_positions(positions, mask), self.spans, embeds.dtype)
        ]
        past = mask.shape[2] - count
        hidden = embeds
        for layer, store, span in zip(self._layers, cache.store[..., :past, :], self._span_of, strict=True):
            joined = F.linear(self._normed(hidden, layer.norm), layer.qkv, layer.qkv_bias)
            parts = self._query_key_value(joined.flatten(0, 1), turn)
            query, key, value = (part.view(rows, count, *part.shape[1:]) for part in parts)
            # Old and new apart, so that nothing is computed backwards for the prompt, which needs no gradient.
            key, value = key.transpose(1, 2), value.transpose(1, 2)
            query = self._by_key_head(query) * self._head_width**-0.5
            scores = torch.cat([query @ part.transpose(2, 3) for part in (store[0], key)], dim=3) + added[span]
            seen = scores.softmax(-1).split([past, count], dim=3)
            attended = seen[0] @ store[1] + seen[1] @ value
            hidden = hidden + F.linear(self._by_token(attended), layer.out)
            gate, up = F.linear(self._normed(hidden, layer.mlp_norm), layer.gate_up).chunk(2, dim=-1)
            hidden = hidden + F.linear(F.silu(gate) * up, layer.down)
        return self._normed(hidden, self._norm)

    def _normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(hidden, (hidden.shape[-1],), weight, self._eps)

    def _turn(self, embeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosine and sine (T, 1, D / 2) of the positions (T,)."""
        cos, sin = self._rotary(embeds, positions[None])  # (1, T, D), both halves alike
        half = self._head_width // 2
        return cos[0, :, None, :half], sin[0, :, None, :half]

    def _query_key_value(self, joined: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Split a joined projection into query (T, H G, D), key and value (T, H, D), rotated to their positions."""
        joined = joined.view(len(joined), -1, self._head_width)
        to_turn, value = joined.split([joined.shape[1] - self._heads, self._heads], dim=1)
        first, second = to_turn.chunk(2, dim=-1)
        cos, sin = turn
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        query, key = turned.split([self._group * self._heads, self._heads], dim=1)
        return query, key, value

    def _attend_group(self, query: Tensor, store: Tensor, group: Group, span: int) -> Tensor:
        """Compute what the group's tokens (t, H G, D) see in a layer's store (2, R, H, N, D): (t, H G D)."""
        mask = group.masks[span]
        rows, count, seen = mask.shape
        query = query.reshape(rows, count, *query.shape[1:]) if group.pick is None else query[group.pick]
        # Contiguous, because the matrix product would else copy it head by head, which takes three times as long.
        keys, values = (part[:, :, :seen][group.rows].contiguous() for part in store)
        query = self._by_key_head(query)  # (B, H, G Q, D)
        if self._is_fused:
            added = mask.repeat(1, self._group, 1)[:, None]  # (B, 1, G Q, K)
            found = F.scaled_dot_product_attention(query, keys, values, added, scale=1.0)
        else:
            scores = query @ keys.transpose(2, 3)  # (B, H, G Q, K)
            scores.view(rows, self._heads, self._group, count, seen).add_(mask[:, None, None])
            found = scores.softmax(-1) @ values
        attended = self._by_token(found).flatten(0, 1)
        return attended if group.back is None else attended.index_select(0, group.back)

    def _by_key_head(self, query: Tensor) -> Tensor:
        """Turn (B, Q, H G, D) into (B, H, G Q, D)."""
        rows, count, _, width = query.shape
        return query.view(rows, count, self._heads, self._group, width).permute(0, 2, 3, 1, 4).flatten(2, 3)

    def _by_token(self, attended: Tensor) -> Tensor:
        """Turn (B, H, G Q, D) into (B, Q, H G D), heads in the order of transformers'."""
        attended = attended.view(len(attended), self._heads, self._group, -1, self._head_width)
        return attended.permute(0, 3, 1, 2, 4).flatten(2)


def _layer(layer: nn.Module) -> _Layer:
    untyped: Any = layer
    attention, mlp = untyped.self_attn, untyped.mlp
    qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
    return _Layer(
        norm=untyped.input_layernorm.weight,
        qkv=_join([projection.weight for projection in qkv]),
        qkv_bias=None if qkv[0].bias is None else _join([projection.bias for projection in qkv]),
        out=attention.o_proj.weight,
        mlp_norm=untyped.post_attention_layernorm.weight,
        gate_up=_join([mlp.gate_proj.weight, mlp.up_proj.weight]),
        down=mlp.down_proj.weight,
    )


def _join(weights: list[nn.Parameter]) -> Tensor:
    """Join matrices; the parts become views of the whole, so the memory is not doubled."""
    joined = torch.cat([weight.data for weight in weights])
    for weight, part in zip(weights, joined.split([len(weight) for weight in weights]), strict=True):
        weight.data = part
    return joined


def is_supported(model: PreTrainedModel) -> bool:
    """Tell whether LlamaTrunk computes what the model does."""
    untyped: Any = model
    config = untyped.config
    if any(type(weight.data) is not Tensor for weight in model.parameters()):  # quantised
        return False
    if config.model_type not in MODEL_TYPES or config.hidden_act != "silu" or getattr(config, "mlp_bias", False):
        return False
    return untyped.model.layers[0].self_attn.o_proj.bias is None
