"""What a model's `generation_config.json` changes of free answers: forced, banned and penalised tokens.

    generation_config ─▶ Rules ─▶ a Guide for each request ─▶ logits ─▶ logits, at every step

The processors are those of `transformers`, so each setting means what it means to `transformers.generate`. They are
shown the token ids of the prompt and of the answer; soft prompts have no ids. Closed answers and training are not
changed.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from embedder.errors import PplugError

Ids = tuple[int, ...]

HONOURED: dict[str, tuple[object, ...]] = {
    "bad_words_ids": (),
    "begin_suppress_tokens": ([],),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "renormalize_logits": (False,),
    "repetition_penalty": (1,),
    "sequence_bias": (),
    "suppress_tokens": ([],),
}
"""Settings that are obeyed, and the values besides None that ask for nothing."""

REFUSED: dict[str, tuple[object, ...]] = {
    "constraints": (),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "force_words_ids": (),
    "guidance_scale": (1,),
    "low_memory": (False,),
    "max_time": (),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "stop_strings": (),
    "token_healing": (False,),
    "watermarking_config": (),
}
"""Settings that would change an answer in ways that are not built here."""

REFUSED_WITH_BEAMS: dict[str, tuple[object, ...]] = {"early_stopping": (False,), "length_penalty": (1,)}
"""The same, of beam search alone: `beams.py` has the default rules of `transformers`."""

_SAMPLING = "only sampling looks at it; answers are greedy or of beam search"
_LENGTH = "the kind of task sets max_new_tokens, which `generate` puts before it"
_SPEED = "how fast, not what"
_OUTPUT = "what `generate` returns beside the answer"
_SPECULATION = "drafts that are checked: greedy answers stay the same"

HARMLESS: dict[str, str] = {
    "assistant_confidence_threshold": _SPECULATION,
    "assistant_early_exit": _SPECULATION,
    "assistant_ensemble_weight": _SPECULATION,
    "assistant_lookbehind": _SPECULATION,
    "bos_token_id": "a prompt begins as its tokenizer says; a decoder without a start token starts with it",
    "cache_config": "of the cache of `generate`, which is not used",
    "cache_implementation": "of the cache of `generate`, which is not used",
    "compile_config": _SPEED,
    "continuous_batching_config": _SPEED,
    "decoder_start_token_id": "every sequence-to-sequence answer starts with it",
    "disable_compile": _SPEED,
    "do_sample": "pplug decodes greedily or with --num-beams, whatever the model's own default",
    "epsilon_cutoff": _SAMPLING,
    "eos_token_id": "ends answers, as in `generate`",
    "eta_cutoff": _SAMPLING,
    "is_assistant": _SPECULATION,
    "max_cache_len": "of the cache of `generate`, which is not used",
    "max_length": _LENGTH,
    "max_matching_ngram_size": _SPECULATION,
    "max_new_tokens": _LENGTH,
    "min_p": _SAMPLING,
    "num_assistant_tokens": _SPECULATION,
    "num_assistant_tokens_schedule": _SPECULATION,
    "num_beams": "--num-beams sets it; 1 unless given",
    "num_return_sequences": "one answer is wanted",
    "output_attentions": _OUTPUT,
    "output_hidden_states": _OUTPUT,
    "output_logits": _OUTPUT,
    "output_scores": _OUTPUT,
    "pad_token_id": "nothing is padded with it",
    "prefill_chunk_size": _SPEED,
    "prompt_lookup_num_tokens": _SPECULATION,
    "remove_invalid_values": "an answer whose numbers are not finite is refused (non_finite_logits)",
    "return_dict_in_generate": _OUTPUT,
    "speculation_type": _SPECULATION,
    "target_lookbehind": _SPECULATION,
    "temperature": _SAMPLING,
    "top_h": _SAMPLING,
    "top_k": _SAMPLING,
    "top_p": _SAMPLING,
    "transformers_version": "says who wrote the file",
    "typical_p": _SAMPLING,
    "use_cache": _SPEED,
    "use_mtp": _SPECULATION,
}
"""Settings that change no answer here, and why."""


class Guide:
    """Applies a model's rules to the answer of one request as it grows."""

    def __init__(self, context: Tensor, processors: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._context, self._processors = context, processors

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (V,) of the next token, by the rules, behind an answer of `ids` (t,); may be `scores` itself."""
        return self._processors(torch.cat([self._context, ids])[None], scores[None])[0]


class Rules:
    """The rules of one model."""

    def __init__(self, model: PreTrainedModel, end_ids: Sequence[int]) -> None:
        self._model: Any = model
        self._config: Any = deepcopy(self._model.generation_config)
        self._config.update(remove_invalid_values=None, do_sample=False, **dict.fromkeys(REFUSED))
        self._config._eos_token_tensor = torch.tensor(end_ids, device=model.device)
        self._start = decoder_start(self._config) if model.config.is_encoder_decoder else None
        self.settings = honoured_settings(self._model.generation_config)
        """What asks for something."""

    def guide(self, prompt: Ids, limit: int) -> Guide | None:
        """The guide of a request with these token ids and at most `limit` new ones; None if there are no rules."""
        if not self.settings:
            return None
        prompt_ids = torch.tensor(prompt, dtype=torch.long, device=self._model.device)
        context = prompt_ids if self._start is None else prompt_ids.new_tensor([self._start])
        config = deepcopy(self._config)
        config.max_length = len(context) + limit
        processors = self._model._get_logits_processor(
            config, len(context), prompt_ids[None], device=prompt_ids.device, model_kwargs={}
        )
        return Guide(context, processors)


def honoured_settings(generation_config: Any) -> dict[str, Any]:
    """The settings of HONOURED that ask for something."""
    return _asked(generation_config, HONOURED)


def require_known_decoding(generation_config: Any, name: str, num_beams: int = 1) -> None:
    """Refuse a model whose settings would change its answers in a way that is not built here.

    Raises:
        PplugError: naming the first of them.
    """
    refused = _asked(generation_config, REFUSED | (REFUSED_WITH_BEAMS if num_beams > 1 else {}))
    if generation_config.cache_implementation == "quantized":
        refused["cache_implementation"] = "quantized"
    for key, value in refused.items():
        mend = "leave out --num-beams, or take" if key in REFUSED_WITH_BEAMS else "take"
        raise PplugError(
            f"{name}: its generation_config.json has {key} = {value!r}, which pplug does not do: {mend} {key} out of it"
        )


def require_no_rules(generation_config: Any, name: str) -> None:
    """Refuse a model whose settings change its answers, for an engine that cannot obey them.

    Raises:
        PplugError: naming the settings.
    """
    require_known_decoding(generation_config, name)
    if rules := honoured_settings(generation_config):
        told = ", ".join(f"{key} = {value!r}" for key, value in rules.items())
        raise PplugError(f"{name}: {told} of generation_config.json is not done in vLLM: use the engine transformers")


def decoder_start(generation_config: Any) -> int:
    """The token that the answers of a sequence-to-sequence LLM start behind.

    Raises:
        PplugError: if there is none, or one for each row of a batch.
    """
    start, other = generation_config.decoder_start_token_id, generation_config.bos_token_id
    found = other if start is None else start
    if not isinstance(found, int):
        raise PplugError(
            f"generation_config.json has decoder_start_token_id = {start!r}: name the one that answers start with"
        )
    return found


def _asked(generation_config: Any, settings: dict[str, tuple[object, ...]]) -> dict[str, Any]:
    found = {key: getattr(generation_config, key, None) for key in sorted(settings)}
    return {key: value for key, value in found.items() if value is not None and value not in settings[key]}
