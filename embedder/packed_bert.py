"""BERT without padding: the tokens of many texts are the rows of one matrix.

    runs of equally long texts ─▶ embeddings (T, d) ─▶ layers ─▶ pooled texts (n, d)

Everything but attention works on single tokens, so it runs as matrix products over all T rows. On processors with
oneDNN the weights are laid out for it once ("prepacked") and GELU is part of the product. Within a run the rows are
ordered by position, then text: then each head of each text is one plain matrix (a view), and attention needs neither
mask nor copy. On a GPU attention is torch's own, one call for each run, and nothing waits for the GPU.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedder.linear import Projection
from embedder.pooling import Pooling, pool
from embedder.text_settings import TextSettings

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")
"""`model_type` of the architectures that are BERT with, at most, other position numbers."""

GELUS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
"""`hidden_act` to torch's name of the approximation."""

FLOAT32_POWERS = 100
"""Longest text in tokens whose float32 attention is faster by `attend`'s own steps than by torch's (measured)."""

MULTIPLE_ROWS = 32
"""Rows are padded to a multiple of this: oneDNN keeps 0.6 MB of code for each product of a new number of rows."""


def can_pack(config: Any) -> bool:
    """Tell whether a model with this config is exactly what `PackedBert` computes."""
    is_absolute = getattr(config, "position_embedding_type", None) in (None, "absolute")
    is_encoder = not getattr(config, "is_decoder", False)
    return config.model_type in FAMILIES and config.hidden_act in GELUS and is_absolute and is_encoder


class PackedBert:
    """A BERT-family encoder over runs of equally long texts.

    Shapes: n texts of l tokens in a run, T rows: the tokens of all runs and some padding, d = width, A heads.
        runs     (l, n) int64 each: column = text
        returns  (sum of n, d) float32, pooled, not normalised, in the order of the columns
    """

    def __init__(self, model: nn.Module, settings: TextSettings, dtype: torch.dtype, kind: type[Projection]) -> None:
        bert: Any = model  # transformers' modules are untyped
        self.device: torch.device = bert.device
        config, embeddings = bert.config, bert.embeddings
        self.pooling, self.dtype, self.eps = settings.pooling, dtype, config.layer_norm_eps
        self.words = embeddings.word_embeddings.weight.detach()
        types = embeddings.token_type_embeddings.weight[0]  # a text on its own is all of type 0
        self.positions = (embeddings.position_embeddings.weight + types).detach()
        self.pad_id: int | None = getattr(embeddings, "padding_idx", None)  # RoBERTa's; BERT has none
        self.norm = _norm(embeddings.LayerNorm, torch.float32)
        self.layers = [Layer(layer, config, dtype, kind) for layer in bert.encoder.layer]

    @torch.inference_mode()
    def __call__(self, runs: Sequence[Tensor]) -> Tensor:
        runs = [run.to(self.device, non_blocking=True) for run in runs]
        x = _whole(torch.cat([self._embed(run) for run in runs]))  # (T, d)
        x = F.layer_norm(x, x.shape[1:], *self.norm, self.eps).to(self.dtype)
        for layer in self.layers[:-1]:
            x = layer(x, runs, runs)
        kept = [run[:1] for run in runs] if self.pooling == Pooling.CLS else runs
        x = self.layers[-1](x, runs, kept)
        states = zip(_parts(x, kept), kept, strict=True)
        return torch.cat([pool(rows.view(*run.shape, -1), self.pooling) for rows, run in states])

    def _embed(self, run: Tensor) -> Tensor:
        if self.pad_id is None:
            positions = self.positions[: len(run), None]  # (l, 1, d)
        else:  # RoBERTa numbers from pad_id + 1 and skips padding, which a text may name
            is_token = run != self.pad_id
            positions = F.embedding(is_token.cumsum(0) * is_token + self.pad_id, self.positions)
        return F.embedding(run, self.words).add_(positions).flatten(0, 1)


class Layer:
    """One transformer layer over packed rows of the model's dtype.

    Shapes: as in PackedBert.
        x        (T, d)  rows behind the last run are padding, which may hold any number
        kept     the leading positions of each run that are wanted: all, or in a last layer with CLS pooling the first
        returns  (tokens in kept, d)
    """

    def __init__(self, layer: Any, config: Any, dtype: torch.dtype, kind: type[Projection]) -> None:
        def linear(weight: Tensor, bias: Tensor) -> Projection:
            return kind(weight.detach().to(dtype), bias.detach().to(dtype))

        self.heads: int = config.num_attention_heads
        attention, out, up, down = layer.attention.self, layer.attention.output, layer.intermediate, layer.output
        scale = math.log2(math.e) / math.sqrt(config.hidden_size // self.heads)  # see attend
        parts = [(attention.query, scale), (attention.key, 1), (attention.value, 1)]
        weights = [(part.weight * factor).unflatten(0, (self.heads, -1)) for part, factor in parts]  # each (A, d/A, d)
        biases = [(part.bias * factor).unflatten(0, (self.heads, -1)) for part, factor in parts]
        self.qkv = linear(torch.stack(weights, 1).flatten(0, 2), torch.stack(biases, 1).flatten())
        self.out = linear(out.dense.weight, out.dense.bias)
        self.up, self.gelu = linear(up.dense.weight, up.dense.bias), GELUS[config.hidden_act]
        self.down = linear(down.dense.weight, down.dense.bias)
        self.norms = _norm(out.LayerNorm, dtype), _norm(down.LayerNorm, dtype)
        self.eps: float = config.layer_norm_eps
        self.attend = attend if self.norms[0][0].device.type == "cpu" else attend_at_once

    def __call__(self, x: Tensor, runs: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        qkv = self.qkv(x)  # (T, 3d)
        if kept is not runs:
            x = _whole(torch.cat([rows[: run.numel()] for rows, run in zip(_parts(x, runs), kept, strict=True)]))
        mixed = torch.zeros_like(x)
        for run, rows, out in zip(runs, _parts(qkv, runs), _parts(mixed, kept), strict=True):
            sizes = (run.shape[1], self.heads)  # n, A
            self.attend(rows.view(len(run), *sizes, 3, -1), out.view(-1, *sizes, x.shape[1] // self.heads))
        x = F.layer_norm(self.out(mixed).add_(x), x.shape[1:], *self.norms[0], self.eps)
        return F.layer_norm(self.down(self.up.gelu(x, self.gelu)).add_(x), x.shape[1:], *self.norms[1], self.eps)


def attend(heads: Tensor, out: Tensor) -> None:
    """Attend, each head on its own.

    softmax(s) is 2^t / sum 2^t with t = s·log2(e), which the query weights hold already. The usual subtraction of the
    largest score only keeps the powers in range. They nearly always are; torch's own attention does the others.

    Shapes: l tokens, n texts, A heads, m = n A, h = width of a head.
        heads  (l, n, A, 3, h)  query, key, value
        out    (k, n, A, h)     is written: what the first k tokens see
    """
    views = heads.flatten(1, 2).permute(2, 1, 0, 3)  # (3, m, l, h)
    is_bfloat16 = heads.dtype == torch.bfloat16  # then oneDNN multiplies, which would copy a view matrix by matrix
    q, k, v = views.contiguous() if is_bfloat16 else views
    q = q[:, : len(out)]
    if is_bfloat16 or len(heads) <= FLOAT32_POWERS:
        powers = torch.bmm(q, k.mT).exp2_()  # (m, k, l)
        total = powers.sum(-1, keepdim=True)  # (m, k, 1)
        low, high = total.aminmax()
        if low > 1e-34 and high < 1e34:  # then powers @ v stays below 3e38 too
            torch.div(torch.bmm(powers, v).transpose(0, 1), total.transpose(0, 1), out=out.flatten(1, 2))
            return
    attend_at_once(heads, out)


def attend_at_once(heads: Tensor, out: Tensor) -> None:
    """Do the same by torch's fused attention."""
    q, k, v = heads.permute(3, 1, 2, 0, 4)  # (n, A, l, h)
    mixed = F.scaled_dot_product_attention(q[:, :, : len(out)], k, v, scale=math.log(2))  # (n, A, k, h)
    out.copy_(mixed.permute(2, 0, 1, 3))


def _whole(x: Tensor) -> Tensor:
    """Pad the rows to a multiple of MULTIPLE_ROWS."""
    return F.pad(x, (0, 0, 0, -len(x) % MULTIPLE_ROWS))


def _parts(x: Tensor, runs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Split the rows by runs, without the padding."""
    sizes = [run.numel() for run in runs]
    return x[: sum(sizes)].split(sizes)


def _norm(norm: nn.LayerNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)
