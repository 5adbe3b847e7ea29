"""Settings of generation_config.json that change no answer of pplug, and why."""

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
