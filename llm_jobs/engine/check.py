"""Choose how an LLM runs here, by what it says: the first way whose numbers are those of `transformers`.

    causal       packed by our own code ─▶ packed by transformers' layers ─▶ prompts of one length ─▶ refused
    seq-to-seq   padded batches ─▶ prompts of one length ─▶ refused

A way is tried on a few tokens with the real weights, whose rounding hides small faults, and before that in float32 on a
small copy (small_copy.py), in which windows and other lengths that the configuration names are reached.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from embedder.errors import PplugError
from llm_jobs.engine.causal import CausalLM
from llm_jobs.engine.differences import decoder_ids, packed_difference, seq2seq_difference, unpacked_difference
from llm_jobs.engine.llama import LlamaTrunk, is_supported
from llm_jobs.engine.rules import Rules
from llm_jobs.engine.seq2seq import Seq2SeqLM
from llm_jobs.engine.small_copy import REACH, lengths, small_copy
from llm_jobs.engine.trunk import TransformersTrunk, Trunk
from llm_jobs.engine.unpacked import UnpackedLM

logger = logging.getLogger(__name__)

Ids = Sequence[int]

ROUNDED = 0.25
"""Mean difference in standard deviations of the logits: SmolLM2 in bfloat16 is 0.05 off, a factor of 2 would be 0.4."""
EXACT = 0.01
"""The same in float32."""
TOKENS = 24
"""Tokens that the real weights read."""
COPY_TOKENS = 8 * REACH
"""Tokens that a small copy reads."""
MOVING = frozenset({"dynamic", "longrope"})
"""Kinds of rotation that depend on the length of the whole pass."""

Difference = Callable[[PreTrainedModel, Ids], float]


class Trial(NamedTuple):
    """A way to run a model."""

    difference: Difference
    """How far it is from `transformers` at most, on some ids, in standard deviations of the logits."""
    engine: Callable[[PreTrainedModel], Any]


def causal_engine(
    model: PreTrainedModel, end_ids: Ids, rules: Rules, memory: int, num_beams: int, ids: Ids
) -> CausalLM | UnpackedLM:
    """The fastest way to run a causal LLM that is right.

    Args:
        model: ready to answer.
        end_ids: tokens that end an answer.
        rules: of its generation settings.
        memory: bytes for keys and values.
        num_beams: of free answers.
        ids: a plain text, to try it on.

    Raises:
        PplugError: if no way is right.
    """
    # A trunk lays out its weights when it is first used: the one that is right is not made twice.
    packed = [
        Trial(partial(packed_difference, make), partial(_packed, make, end_ids, rules, memory, num_beams))
        for make in map(lru_cache, _trunks(model))
    ]
    unpacked = [
        Trial(partial(unpacked_difference, make), partial(make, end_ids=end_ids, rules=rules, num_beams=num_beams))
        for make in _unpacked_ways(model)
    ]
    return _first_right(model, ids, packed, unpacked)


def seq2seq_engine(model: PreTrainedModel, end_ids: Ids, rules: Rules, num_beams: int, ids: Ids) -> Seq2SeqLM:
    """The same for a sequence-to-sequence LLM."""
    trials = [
        [
            Trial(
                partial(seq2seq_difference, ways),
                partial(Seq2SeqLM, end_ids=end_ids, rules=rules, num_beams=num_beams, **ways),
            )
            for ways in ({"scale": scale, "alike": alike} for scale in _scales(model))
        ]
        for alike in (False, True)
    ]
    return _first_right(model, ids, *trials)


def _first_right(model: PreTrainedModel, ids: Ids, together: Sequence[Trial], alike: Sequence[Trial]) -> Any:
    """The engine of the first trial that is right, of those that need prompts of one length if no other is."""
    copy, name = _copy(model), f"{type(model).__name__} ({model.config.model_type})"
    if copy is not None and _remembers(copy):
        raise PplugError(f"{name} reads a long text in another way once it has read a short one: choose another LLM")
    reasons: list[str] = []
    for trial in together:
        if (failure := _unseen(model, ids, copy) or _failure(model, ids, copy, trial.difference)) is None:
            return trial.engine(model)
        reasons.append(failure)
    for trial in alike:
        if (failure := _failure(model, ids, copy, trial.difference)) is None:
            told = "%s answers prompts of one length at a time, which is slower: %s"
            logger.warning(told, name, reasons[0] if reasons else "its rotation depends on the longest")
            return trial.engine(model)
        reasons.append(failure)
    raise PplugError(f"{name} does not answer here as in transformers: {reasons[-1]}: choose another LLM")


@torch.no_grad()
def _remembers(copy: Any) -> bool:
    """Whether reading a short text changes for good how the model reads (BigBird leaves its sparse attention)."""
    long, short = (torch.arange(3, 3 + count)[None] for count in (COPY_TOKENS, 2))
    logits = [copy(row, **decoder_ids(copy, [3])).logits for row in (long, short, long)]
    return not torch.allclose(logits[0], logits[2], atol=1e-3)


def _unseen(model: PreTrainedModel, ids: Ids, copy: PreTrainedModel | None) -> str | None:
    """Why faults of answering together could hide: without a small copy, behind a length or behind rounding."""
    reach = max(lengths(model.config).values(), default=0)
    if copy is not None or (reach < min(TOKENS, len(ids)) and model.dtype == torch.float32):
        return None
    sizes = "".join(f", {key} {value}" for key, value in lengths(model.config).items())
    return f"no small copy can be made to try it{sizes}"


def _failure(model: PreTrainedModel, ids: Ids, copy: PreTrainedModel | None, difference: Difference) -> str | None:
    """What is wrong with a way to run the model; None if nothing is."""
    tries = [(model, ids[-TOKENS:], "on a short text")]
    if copy is not None:
        numbers = [3 + at * 7 % 200 for at in range(COPY_TOKENS)]
        tries.insert(0, (copy, numbers, "in a small copy with drawn weights"))
    for one, some, where in tries:
        try:
            with torch.no_grad():
                found = difference(one, some)
        except Exception as error:  # whatever a model says to inputs that it does not take
            return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        if not found < (EXACT if one.dtype == torch.float32 else ROUNDED):
            return f"its logits are off by {found:.2g} sigma {where}"
    return None


def _copy(model: PreTrainedModel) -> PreTrainedModel | None:
    """A small copy, if one can be made."""
    try:
        copy: Any = small_copy(model)
        copy.generation_config.decoder_start_token_id = 3
        with torch.no_grad():
            copy(torch.arange(3, 3 + COPY_TOKENS)[None], **decoder_ids(copy, [3]))
    except Exception as error:  # whatever a class says to a small configuration
        logger.debug("no small copy of %s: %s", type(model).__name__, error)
        return None
    return copy


def _trunks(model: PreTrainedModel) -> Iterator[Callable[[PreTrainedModel], Trunk]]:
    """Trunks that may do, the fastest first."""
    if _rope_types(model.config) & MOVING:
        return
    if is_supported(model):
        yield LlamaTrunk
    for scale in _scales(model):
        yield partial(TransformersTrunk, scale=scale)
        yield partial(TransformersTrunk, scale=scale, has_spans=False)


def _unpacked_ways(model: PreTrainedModel) -> Iterator[Callable[..., UnpackedLM]]:
    for scale in _scales(model):
        yield partial(UnpackedLM, scale=scale)
        if "longrope" in _rope_types(model.config):
            yield partial(_switching, scale=scale)
        yield partial(UnpackedLM, scale=scale, keeps=False)


def _switching(model: PreTrainedModel, **options: Any) -> UnpackedLM:
    sizes = lengths(model.config)
    return UnpackedLM(model, switch=sizes.get("original_max_position_embeddings", REACH), **options)


def _scales(model: PreTrainedModel) -> list[float]:
    """What the model may multiply the embeddings of token ids with, and not those it is given."""
    untyped: Any = model
    parts: list[Any] = [
        untyped,
        untyped.get_decoder() if not model.config.is_encoder_decoder else untyped.get_encoder(),
    ]
    found = [getattr(part, "embed_scale", None) for part in parts]
    return list(dict.fromkeys([1.0, *[float(scale) for scale in found if isinstance(scale, (int, float))]]))


def _rope_types(config: Any) -> set[str]:
    rope = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return {part.get("rope_type", "default") for part in [rope, *rope.values()] if isinstance(part, dict)}


def _packed(
    make: Callable[[PreTrainedModel], Trunk],
    end_ids: Ids,
    rules: Rules,
    memory: int,
    num_beams: int,
    model: PreTrainedModel,
) -> CausalLM:
    return CausalLM(make(model), end_ids, memory, rules, num_beams)
