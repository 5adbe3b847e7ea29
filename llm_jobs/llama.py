"""Our own forward pass of Llama-like decoders, for speed; the weights stay where `transformers` loaded them.

    embeds ─▶ [ norm ─▶ q k v ─▶ rotate ─▶ attention ─▶ + ─▶ norm ─▶ gate up ─▶ silu ─▶ down ─▶ + ] x layers ─▶ norm

Faster than `transformers` on a CPU, because the heads that share keys are one matrix (no copies of the cache), and
because the backward of torch's fused CPU attention is ten times slower than plain matrix products (27 ms against
2.8 ms per layer for 32 rows, 13 new tokens and 60 cached ones). Plain products also add in the same order in every
batch, which the fused attention does not.

Shapes: B rows, Q new tokens, K slots (cached and new), H key/value heads, G query heads for each, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from .kv_cache import KVCache, Prefix
from .trunk import join

MODEL_TYPES = frozenset({"llama", "mistral", "qwen2"})
"""Decoders with exactly these layers; everything else goes through TransformersTrunk."""

LEAST_ROWS = 4


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
        self.kernel = "pplug llama"

    def embed(self, ids: Tensor) -> Tensor:
        return self._embedding(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        return linear(hidden, self._head).float()

    def empty_prefix(self) -> Prefix:
        weight = self._norm
        return Prefix(weight.new_zeros(len(self._layers), 2, self._heads, 0, self._head_width))

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor, cache: KVCache, slots: Tensor | None) -> Tensor:
        cos, sin = self._rotary(embeds, positions)  # (B, Q, D), both halves alike
        half = self._head_width // 2
        turn = cos[:, :, None, :half], sin[:, :, None, :half]
        # The lowest finite number, not -inf: a row of padding then gives some number instead of NaN.
        blocked = torch.zeros(mask.shape, dtype=embeds.dtype, device=embeds.device)
        blocked.masked_fill_(~mask, torch.finfo(embeds.dtype).min)
        blocked = blocked[:, None].expand(-1, self._group, -1, -1).flatten(1, 2)[:, None]  # (B, 1, G Q, K)
        past = mask.shape[2] if slots is not None else cache.longest
        hidden = embeds
        for layer, store in zip(self._layers, cache.store[..., :past, :], strict=True):
            normed = F.rms_norm(hidden, (hidden.shape[-1],), layer.norm, self._eps)
            query, key, value = self._query_key_value(normed, layer, turn)
            attended = self._attend(query, *join(store, key, value, slots), blocked)
            hidden = hidden + linear(attended, layer.out)
            normed = F.rms_norm(hidden, (hidden.shape[-1],), layer.mlp_norm, self._eps)
            gate, up = linear(normed, layer.gate_up).chunk(2, dim=-1)
            hidden = hidden + linear(F.silu(gate) * up, layer.down)
        return F.rms_norm(hidden, (hidden.shape[-1],), self._norm, self._eps)

    def _query_key_value(
        self, normed: Tensor, layer: _Layer, turn: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query (B, H, G Q, D), key and value (B, H, Q, D), rotated to their positions."""
        rows, count, _ = normed.shape
        joined = linear(normed, layer.qkv, layer.qkv_bias).view(rows, count, -1, self._head_width)
        to_turn, value = joined.split([joined.shape[2] - self._heads, self._heads], dim=2)
        first, second = to_turn.chunk(2, dim=-1)
        cos, sin = turn
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        query, key = turned.split([self._group * self._heads, self._heads], dim=2)
        query = query.view(rows, count, self._heads, self._group, self._head_width).permute(0, 2, 3, 1, 4)
        return query.flatten(2, 3), key.transpose(1, 2), value.transpose(1, 2)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, blocked: Tensor) -> Tensor:
        """Attention of the new tokens (B, Q, H G D), heads in the order of transformers'."""
        scores = (query * self._head_width**-0.5) @ keys.transpose(2, 3) + blocked  # (B, H, G Q, K)
        attended = scores.softmax(-1) @ values  # (B, H, G Q, D)
        attended = attended.view(len(attended), self._heads, self._group, -1, self._head_width)
        return attended.permute(0, 3, 1, 2, 4).flatten(2)


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear, but a row's result does not depend on how many rows there are.

    Fewer than four rows take another way through oneDNN, which adds in another order (measured on torch 2.13).
    """
    flat = rows.reshape(-1, rows.shape[-1])
    missing = max(0, LEAST_ROWS - len(flat))
    found = F.linear(F.pad(flat, (0, 0, 0, missing)) if missing else flat, weight, bias)
    return found[: len(flat)].view(*rows.shape[:-1], -1)


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
    """One matrix of several; the parts become views of it, so the memory is not doubled."""
    joined = torch.cat([weight.data for weight in weights])
    for weight, part in zip(weights, joined.split([len(weight) for weight in weights]), strict=True):
        weight.data = part
    return joined


def is_supported(model: PreTrainedModel) -> bool:
    """Whether LlamaTrunk computes what the model does."""
    untyped: Any = model
    config = untyped.config
    if config.model_type not in MODEL_TYPES or config.hidden_act != "silu" or getattr(config, "mlp_bias", False):
        return False
    return untyped.model.layers[0].self_attn.o_proj.bias is None
