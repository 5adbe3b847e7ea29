"""A small model of the same class with drawn weights, whose windows and other lengths end after a few tokens.

    config ─▶ small_config ─▶ a few layers, 32 wide, window 4,096 ─▶ 8

What a model does with its thousandth token is then seen on its tenth, in milliseconds whatever the size of the model.
"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

REACH = 8  # where windows end and switches are thrown in a small copy
MOST_LAYERS = 8
VOCABULARY = 300
POSITIONS = 256

LENGTH = re.compile(
    r"window|chunk_size|chunk_len|local_att|original_max_position|topk$|index_topk|block_size|floor_scale|radius"
    r"|attn_chunk|attention_chunk"
)
"""Names of settings that hold a number of tokens at which a model begins to do something else."""
NO_LENGTH = re.compile(r"max_window_layers|use_|num_.*window|pattern|expert|group|topk_method|topk_group|norm_topk|moe")

LAYERS = re.compile(r"^(num_hidden_layers|n_layers?|num_layers|(num_)?(en|de)coder_layers|decoder_num_layers)$")
HEADS = re.compile(
    r"^(num_attention_heads|n_heads?|num_heads|(en|de)coder_attention_heads|num_(en|de)coder_attention_heads)$"
)
KEY_HEADS = re.compile(r"^(num_key_value_heads|n_head_kv|num_kv_heads|multi_query_group_num|kv_n_heads)$")
SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size", "dff", "d_inner"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "shared_intermediate_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(
        ("head_dim", "d_kv", "kv_channels", "global_head_dim", "swa_head_dim", "attention_head_dim", "d_head"), 8
    ),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "swa_v_head_dim", "index_head_dim"), 8),
    **dict.fromkeys(("rotary_dim",), 4),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("num_random_blocks",), 1),
    **dict.fromkeys(("num_kv_shared_layers",), 0),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_head"), 8),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_groups"), 1),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state", "d_state"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"), POSITIONS),
    **dict.fromkeys(("max_encoder_position_embeddings", "max_decoder_position_embeddings"), POSITIONS),
}
"""What is made small, and how small at most. Four heads of 8 are 32."""


def lengths(config: PreTrainedConfig) -> dict[str, int]:
    """List the numbers of tokens at which a model begins to do something else, by the name of the setting."""
    return _lengths(_settings(config))


def small_copy(model: PreTrainedModel, **changes: Any) -> PreTrainedModel:
    """Make a small model of the same class in float32 on the CPU; the same weights each time."""
    return drawn(type(model), small_config(model.config, **changes))


def drawn(model_class: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """Make a model with weights drawn so wide that every token matters; norms and biases as the class begins."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).float().eval().requires_grad_(False)
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "norm" not in name:
                weight.normal_(std=1.5 * weight.shape[-1] ** -0.5)
    return model


def small_config(config: PreTrainedConfig, **changes: Any) -> PreTrainedConfig:
    """Make the configuration small: few layers, with one of every kind, and lengths of REACH."""
    return type(config).from_dict(_small(_settings(config)) | changes)


def _settings(config: PreTrainedConfig) -> dict[str, Any]:
    """Read what a class is made from, without the names of classes, which have numbers for keys."""
    return {key: value for key, value in config.to_dict().items() if key not in ("id2label", "label2id")}


def _lengths(values: Mapping[Any, Any]) -> dict[str, int]:
    named: dict[str, int] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, Mapping):
            named |= _lengths(value)
        elif _is_length(key, value):
            named[key] = value
        elif isinstance(value, list) and value and all(_is_length(key, one) for one in value):
            named[key] = max(value)
    return named


def _is_length(key: str, value: object) -> bool:
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return value > REACH and bool(LENGTH.search(key)) and not NO_LENGTH.search(key)


def _small(values: Mapping[str, Any]) -> dict[str, Any]:
    small = deepcopy(dict(values))
    counts = [value for key, value in values.items() if LAYERS.match(key) and isinstance(value, int)]
    layers = max(counts, default=0)
    kept = _kept_layers(values, layers)
    heads = next((value for key, value in values.items() if HEADS.match(key) and isinstance(value, int)), 0)
    for key, value in values.items():
        small[key] = _small_value(key, value, layers, kept, heads)
    if isinstance(by_layer := values.get("per_layer_config"), Mapping):
        named = {int(key): value for key, value in by_layer.items()}
        small["per_layer_config"] = {at: named[layer] for at, layer in enumerate(kept) if layer in named}
    if values.get("model_type") == "mamba2":
        small |= {"head_dim": 16, "n_groups": 1}  # four heads of 16 are what `expand` makes of 32
    if "rope_parameters" in small:
        small["rope_parameters"] = _small_rope(small["rope_parameters"], small)
    return small


def _small_value(key: str, value: Any, layers: int, kept: Sequence[int], heads: int) -> Any:
    if isinstance(value, Mapping):
        return _small(value) if all(isinstance(name, str) for name in value) else value
    if isinstance(value, list):
        return _small_list(key, value, layers, kept)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if LAYERS.match(key):
        return min(value, len(kept))
    if HEADS.match(key):
        return 4
    if KEY_HEADS.match(key):
        return max(1, 4 * value // heads) if heads else min(value, 2)
    if key.endswith("_token_id"):
        return value if value < VOCABULARY else 1
    return min(value, SIZES.get(key, REACH if _is_length(key, value) else value))


def _small_list(key: str, values: list[Any], layers: int, kept: Sequence[int]) -> list[Any]:
    if values and re.search("layers?_(indices|ids|idx)$", key):
        return [1]
    if layers and len(values) == layers:
        return [values[at] for at in kept]
    return [REACH if _is_length(key, one) else one for one in values]


def _kept_layers(values: Mapping[str, Any], layers: int) -> list[int]:
    """Choose numbers of layers, one of every kind; kinds stand in lists with an entry a layer, or come in a pattern."""
    lists = [value for value in values.values() if isinstance(value, list) and layers and len(value) == layers]
    if lists:
        kinds = [repr([one[at] for one in lists]) for at in range(layers)]
        first = sorted({kinds.index(kind) for kind in kinds})
        rest = [at for at in range(layers) if at not in first]
        return sorted([*first, *rest[: max(0, 2 - len(first))]])
    is_pattern = any(re.search("period|interval|pattern|every|first_k|offset|block_types", key) for key in values)
    return list(range(min(layers, MOST_LAYERS if is_pattern else 2)))


def _small_rope(rope: Any, values: Mapping[str, Any]) -> Any:
    """Keep as many factors, one for each pair of numbers in a head, as a small head has."""
    if not isinstance(rope, Mapping):
        return rope
    width = values.get("head_dim") or values.get("hidden_size", 32) // 4
    share = rope.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1.0
    pairs = max(1, int(width * share) // 2)
    small = {key: _small_rope(value, values) for key, value in rope.items()}
    for key in ("short_factor", "long_factor"):
        if isinstance(small.get(key), list):
            small[key] = small[key][:pairs]
    if isinstance(small.get("mrope_section"), list):
        small["mrope_section"] = [pairs - 2, 1, 1]
    return small
