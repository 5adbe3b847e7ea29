"""Choose how an LLM runs here, by what it says: the first way whose numbers are those of `transformers`.

    causal       packed by our own code ─▶ packed by transformers' layers ─▶ prompts of one length ─▶ refused
    seq-to-seq   padded batches ─▶ prompts of one length ─▶ refused

A way is tried on a few tokens with the real weights, whose rounding hides small faults, and before that in float32 on a
small copy (small_copy.py), in which windows and other lengths that the configuration names are reached.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from embedder.errors import PplugError
from llm_jobs.engine.causal import CausalLM
from llm_jobs.engine.differences import decoder_ids, difference
from llm_jobs.engine.llama import LlamaTrunk, is_supported
from llm_jobs.engine.rules import Rules
from llm_jobs.engine.seq2seq import Seq2SeqLM
from llm_jobs.engine.small_copy import REACH, lengths, small_copy
from llm_jobs.engine.trunk import TransformersTrunk
from llm_jobs.engine.unpacked import UnpackedLM

logger = logging.getLogger(__name__)

ROUNDED: Final = 0.25
"""Mean difference in standard deviations of the logits: SmolLM2 in bfloat16 is 0.05 off, a factor of 2 would be 0.4."""
EXACT: Final = 0.01  # the same in float32
TOKENS: Final = 24  # tokens that the real weights read
COPY_TOKENS: Final = 8 * REACH  # tokens that a small copy reads
MOVING: Final = frozenset({"dynamic", "longrope"})  # kinds of rotation that depend on the length of the whole pass

Way = Callable[[PreTrainedModel], CausalLM | UnpackedLM | Seq2SeqLM]  # makes an engine of a model


def causal_engine(
    model: PreTrainedModel, end_ids: Sequence[int], rules: Rules, memory: int, num_beams: int, ids: Sequence[int]
) -> CausalLM | UnpackedLM:
    """Make the fastest engine of a causal LLM that is right when it is tried on `ids`, a plain text."""
    packed = [_packed(trunk, end_ids, memory, rules, num_beams) for trunk in _trunks(model)]
    unpacked = [
        partial(UnpackedLM, end_ids=end_ids, rules=rules, num_beams=num_beams, **options)
        for options in _unpacked_options(model)
    ]
    return _first_right(model, ids, packed, unpacked)


def seq2seq_engine(
    model: PreTrainedModel, end_ids: Sequence[int], rules: Rules, num_beams: int, ids: Sequence[int]
) -> Seq2SeqLM:
    """Make one of a sequence-to-sequence LLM."""
    padded, alike = (
        [
            partial(Seq2SeqLM, end_ids=end_ids, rules=rules, num_beams=num_beams, scale=scale, alike=alike)
            for scale in _scales(model)
        ]
        for alike in (False, True)
    )
    return _first_right(model, ids, padded, alike)


def _first_right(model: PreTrainedModel, ids: Sequence[int], together: Sequence[Way], alike: Sequence[Way]) -> Any:
    """Make the first engine that is right, of those that need prompts of one length if no other is."""
    copy, name = _copy(model), f"{type(model).__name__} ({model.config.model_type})"
    if copy is not None and _remembers(copy):
        raise PplugError(f"{name} reads a long text in another way once it has read a short one: choose another LLM")
    unseen = _unseen(model, ids, copy)
    reasons = [unseen] if unseen and together else []
    for way in (*([] if unseen else together), *alike):
        engine = _tried(model, ids, copy, way)
        if isinstance(engine, str):
            reasons.append(engine)
            continue
        if way in alike:
            told = "%s answers prompts of one length at a time, which is slower: %s"
            logger.warning(told, name, reasons[0] if reasons else "its rotation depends on the longest")
        return engine
    raise PplugError(f"{name} does not answer here as in transformers: {reasons[-1]}: choose another LLM")


@torch.no_grad()
def _remembers(copy: Any) -> bool:
    """Tell whether reading a short text changes for good how the model reads (BigBird leaves its sparse attention)."""
    long, short = (torch.arange(3, 3 + count)[None] for count in (COPY_TOKENS, 2))
    logits = [copy(row, **decoder_ids(copy, [3])).logits for row in (long, short, long)]
    return not torch.allclose(logits[0], logits[2], atol=1e-3)


def _unseen(model: PreTrainedModel, ids: Sequence[int], copy: PreTrainedModel | None) -> str | None:
    """Say why faults of answering together could hide: without a small copy, behind a length or behind rounding."""
    reach = max(lengths(model.config).values(), default=0)
    if copy is not None or (reach < min(TOKENS, len(ids)) and model.dtype == torch.float32):
        return None
    sizes = "".join(f", {key} {value}" for key, value in lengths(model.config).items())
    return f"no small copy can be made to try it{sizes}"


@torch.no_grad()
def _tried(model: PreTrainedModel, ids: Sequence[int], copy: PreTrainedModel | None, way: Way) -> Any:
    """Make the engine, or say what is wrong with it."""
    tries = [(model, ids[-TOKENS:], "on a short text")]
    if copy is not None:
        numbers = [3 + at * 7 % 200 for at in range(COPY_TOKENS)]
        tries.insert(0, (copy, numbers, "in a small copy with drawn weights"))
    engine = None
    for one, some, where in tries:
        try:
            off = difference(engine := way(one), one, some)
        except Exception as error:  # whatever a model says to inputs that it does not take
            return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        if not off < (EXACT if one.dtype == torch.float32 else ROUNDED):
            return f"its logits are off by {off:.2g} sigma {where}"
    return engine


def _copy(model: PreTrainedModel) -> PreTrainedModel | None:
    """Make a small copy, if one can be made."""
    try:
        copy: Any = small_copy(model)
        copy.generation_config.decoder_start_token_id = 3
        with torch.no_grad():
            copy(torch.arange(3, 3 + COPY_TOKENS)[None], **decoder_ids(copy, [3]))
    except Exception as error:  # whatever a class says to a small configuration
        logger.debug("no small copy of %s: %s", type(model).__name__, error)
        return None
    return copy


def _trunks(model: PreTrainedModel) -> Iterator[Callable[[PreTrainedModel], Any]]:
    """List the trunks that may do, the fastest first."""
    if _rope_types(model.config) & MOVING:
        return
    if is_supported(model):
        yield LlamaTrunk
    for scale in _scales(model):
        yield partial(TransformersTrunk, scale=scale)
        yield partial(TransformersTrunk, scale=scale, has_spans=False)


def _packed(trunk: Callable[[PreTrainedModel], Any], *settings: Any) -> Way:
    return lambda model: CausalLM(trunk(model), *settings)


def _unpacked_options(model: PreTrainedModel) -> Iterator[dict[str, Any]]:
    for scale in _scales(model):
        yield {"scale": scale}
        if "longrope" in _rope_types(model.config):
            yield {"scale": scale, "switches": True}
        yield {"scale": scale, "keeps": False}


def _scales(model: PreTrainedModel) -> list[float]:
    """List what the model may multiply the embeddings of token ids with, and not those it is given."""
    untyped: Any = model
    parts: list[Any] = [
        untyped,
        untyped.get_decoder() if not model.config.is_encoder_decoder else untyped.get_encoder(),
    ]
    scales = [getattr(part, "embed_scale", None) for part in parts]
    return list(dict.fromkeys([1.0, *[float(scale) for scale in scales if isinstance(scale, (int, float))]]))


def _rope_types(config: Any) -> set[str]:
    rope = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return {part.get("rope_type", "default") for part in [rope, *rope.values()] if isinstance(part, dict)}
