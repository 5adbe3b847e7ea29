"""What a model's `generation_config.json` changes of free answers: forced, banned and penalised tokens.

    generation_config ─▶ Rules ─▶ a Guide for each request ─▶ logits ─▶ logits, at every step

The processors are those of `transformers`, so each setting means what it means to `transformers.generate`. They are
shown the token ids of the prompt and of the answer; soft prompts have no ids. Closed answers and training are not
changed.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, NoRepeatNGramLogitsProcessor, PreTrainedModel

from embedder.errors import PplugError
from llm_jobs.prompts import Ids

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


class Guide:
    """Applies a model's rules to the answer of one request as it grows."""

    def __init__(self, context: Tensor, processors: Callable[[Tensor, Tensor], Tensor], no_repeat: int = 0) -> None:
        self._context, self._processors = context, processors
        self._unrepeated: Any = NoRepeatNGramLogitsProcessor(no_repeat) if no_repeat else None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Apply the rules to the scores (V,) of the next token of an answer of `ids` (t,); may return `scores`."""
        ruled = self._processors(torch.cat([self._context, ids])[None], scores[None])
        return (self._unrepeated(ids[None], ruled) if self._unrepeated else ruled)[0]  # the prompt may be repeated


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

    def guide(self, prompt: Ids, limit: int, no_repeat: int = 0) -> Guide | None:
        """Make the guide of an answer of at most `limit` tokens, no run of `no_repeat` twice; None without rules."""
        if not self.settings and not no_repeat:
            return None
        prompt_ids = torch.tensor(prompt, dtype=torch.long, device=self._model.device)
        context = prompt_ids if self._start is None else prompt_ids.new_tensor([self._start])
        config = deepcopy(self._config)
        config.max_length = len(context) + limit
        processors = self._model._get_logits_processor(
            config, len(context), prompt_ids[None], device=prompt_ids.device, model_kwargs={}
        )
        return Guide(context, processors, no_repeat)


def load_generation_config(folder: Path, config: Any) -> GenerationConfig:
    """Load how a model is to be decoded, as its folder says, or else its configuration."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return GenerationConfig.from_model_config(config)


def honoured_settings(generation_config: Any) -> dict[str, Any]:
    """List the settings of HONOURED that ask for something."""
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
    """Find the token that the answers of a sequence-to-sequence LLM start behind.

    Raises:
        PplugError: if there is none, or one for each row of a batch.
    """
    start, other = generation_config.decoder_start_token_id, generation_config.bos_token_id
    first = other if start is None else start
    if not isinstance(first, int):
        raise PplugError(
            f"generation_config.json has decoder_start_token_id = {start!r}: name the one that answers start with"
        )
    return first


def _asked(generation_config: Any, settings: dict[str, tuple[object, ...]]) -> dict[str, Any]:
    values = {key: getattr(generation_config, key, None) for key in sorted(settings)}
    return {key: value for key, value in values.items() if value is not None and value not in settings[key]}
