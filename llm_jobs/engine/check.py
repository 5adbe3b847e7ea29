"""Choose how an LLM runs here, by what it says: the first way whose numbers are those of `transformers`.

    causal       packed by our own code ─▶ packed by transformers' layers ─▶ prompts of one length ─▶ refused
    seq-to-seq   padded batches ─▶ prompts of one length ─▶ refused

A way is tried on a few tokens with the real weights, whose rounding hides small faults, and before that in float32 on a
small copy (small_copy.py), in which windows and other lengths that the configuration names are reached: two rows of
different lengths, read in parts, one more token each, and a tree of choices behind them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from embedder.errors import PplugError
from llm_jobs.engine.causal import CausalLM
from llm_jobs.engine.choices import choice_tree
from llm_jobs.engine.continuous import read
from llm_jobs.engine.kv_cache import KVCache
from llm_jobs.engine.llama import LlamaTrunk, is_supported
from llm_jobs.engine.packing import Piece, step
from llm_jobs.engine.rules import Rules
from llm_jobs.engine.seq2seq import Seq2SeqLM
from llm_jobs.engine.small_copy import REACH, lengths, small_copy
from llm_jobs.engine.trunk import TransformersTrunk, Trunk
from llm_jobs.engine.unpacked import UnpackedLM
from llm_jobs.prompts import PromptParts

logger = logging.getLogger(__name__)

Ids = Sequence[int]

ROUNDED = 0.25
"""Mean difference in standard deviations of the logits: SmolLM2 in bfloat16 is 0.05 off, a factor of 2 would be 0.4."""
EXACT = 0.01
"""The same in float32."""
COPY_TOKENS = 8 * REACH
"""Tokens that a small copy reads."""
MORE = 5
"""Tokens that an unpacked model is asked for."""
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
    copy = _copy(model)
    reasons: list[str] = []
    for trial in together:
        if (failure := _unseen(model, ids, copy) or _failure(model, ids, copy, trial.difference)) is None:
            return trial.engine(model)
        reasons.append(failure)
    for trial in alike:
        if (failure := _failure(model, ids, copy, trial.difference)) is None:
            told = "%s (%s) answers prompts of one length at a time, which is slower: %s"
            logger.warning(told, type(model).__name__, model.config.model_type, reasons[0] if reasons else "longrope")
            return trial.engine(model)
        reasons.append(failure)
    name = f"{type(model).__name__} ({model.config.model_type})"
    raise PplugError(f"{name} does not answer here as in transformers: {reasons[-1]}: choose another LLM")


def _unseen(model: PreTrainedModel, ids: Ids, copy: PreTrainedModel | None) -> str | None:
    """Why faults of answering together could hide: without a small copy, behind a length or behind rounding."""
    reach = max(lengths(model.config).values(), default=0)
    if copy is not None or (reach < len(ids) and model.dtype == torch.float32):
        return None
    sizes = "".join(f", {key} {value}" for key, value in lengths(model.config).items())
    return f"no small copy can be made to try it{sizes}"


def _failure(model: PreTrainedModel, ids: Ids, copy: PreTrainedModel | None, difference: Difference) -> str | None:
    """What is wrong with a way to run the model; None if nothing is."""
    tries = [(model, ids, "on a short text")]
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
            copy(torch.arange(3, 3 + COPY_TOKENS)[None], **_decoder_ids(copy, [3]))
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


def packed_difference(make: Callable[[PreTrainedModel], Trunk], model: PreTrainedModel, ids: Ids) -> float:
    """How far a trunk is from the model it stands for: reading, one step, and a tree."""
    trunk, (token, *inner, end) = make(model), _tokens(ids)
    one, two, three, four = inner
    tree = choice_tree(((one, two, end), (one, three, end), (four, end)))
    rows = [[*ids], [*ids[: len(ids) // 3]]]
    cache = KVCache.empty(trunk.empty_prefix(), len(rows), len(ids) + 1 + len(tree.tokens))

    def embed(some: Ids) -> Tensor:
        return trunk.embed(torch.tensor(some, dtype=torch.long, device=model.device))

    half = len(ids) // 2
    read(trunk, cache, [Piece(0, 0, embed(rows[0][:half]))])
    prompts = read(trunk, cache, [Piece(0, half, embed(rows[0][half:])), Piece(1, 0, embed(rows[1]))])
    sizes = torch.tensor([len(row) for row in rows], device=model.device)
    batch = step(sizes, cache.slots, cache.store.dtype, trunk.spans)
    steps = trunk.read(embed([token] * len(rows)), batch, cache)
    pieces = [Piece(at, len(row) + 1, embed(tree.tokens), tree.sees, tree.depths) for at, row in enumerate(rows)]
    trees = read(trunk, cache, pieces)
    found: list[float] = []
    for at, row in enumerate(rows):
        states = torch.stack([prompts[at][-1], steps[at], *trees[at]])
        logits = trunk.logits(states)
        place = {(): 1} | {path: 2 + node for node, path in enumerate(_paths(tree.tokens, tree.sees))}
        for path in ((one, two), (one, three), (four,)) if at else ((one, three), (four,)):
            expected = _plain(model, [*row, token, *path])[-len(path) - 2 :]
            own = [0, *[place[path[:end]] for end in range(len(path) + 1)]]
            found.append(_difference(logits[own], expected))
    return max(found)


def unpacked_difference(make: Callable[..., UnpackedLM], model: PreTrainedModel, ids: Ids) -> float:
    """How far `UnpackedLM` is from `generate`, and from a plain pass."""
    engine = make(model, end_ids=[0], rules=Rules(model, [0]))
    found: list[float] = []
    for some in (ids, ids[: REACH - 2]):
        row = torch.tensor([some], device=model.device)
        plain = model.generation_config
        model.generation_config = GenerationConfig(pad_token_id=0)
        try:
            untyped: Any = model
            said = untyped.generate(
                row,
                attention_mask=torch.ones_like(row),
                max_new_tokens=MORE,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        finally:
            model.generation_config = plain
        embeds = engine.embed(row)
        steps = engine.steps(embeds)
        own = [steps.first()]
        new = said.sequences[0, row.shape[1] :]
        own += [steps.next(token[None]) for token in new[:-1]]
        found.append(_difference(torch.cat(own), torch.cat(said.logits).float()))
        found.append(_difference(engine.forward(embeds, None, len(some)).logits[0].float(), _plain(model, some)))
    return max(found)


def seq2seq_difference(ways: dict[str, Any], model: PreTrainedModel, ids: Ids) -> float:
    """How far `Seq2SeqLM` is from the plain model: of two prompts, step by step and as a whole."""
    engine = Seq2SeqLM(model, [0], Rules(model, [0]), **ways)
    token, one, two, *_ = _tokens(ids)
    prompts, answers = [[*ids], [*ids[: len(ids) // 3]]], [(token, one, two), (token, two)]
    parts = [PromptParts(tuple(prompt), ()) for prompt in prompts]
    found: list[float] = []
    for numbers in [[0], [1]] if ways["alike"] else [[0, 1]]:
        own = [parts[at] for at in numbers]
        soft = torch.zeros(len(own), 0, engine.embed(torch.tensor([0], device=model.device)).shape[1])
        logits = engine.step_logits(own, soft, [answers[at][0] for at in numbers])  # (B, 2, V)
        means = engine.answer_log_probs(own, soft, [answers[at] for at in numbers])
        for row, at in enumerate(numbers):
            expected = _plain(model, prompts[at], answers[at])
            found.append(_difference(logits[row], expected[:2]))
            ids_of = torch.tensor(answers[at], device=model.device)
            mean = expected.log_softmax(1)[torch.arange(len(ids_of)), ids_of].mean()
            found.append(float((means[row] - mean).abs() / expected.std()))
    return max(found)


def _plain(model: Any, ids: Ids, answer: Ids = ()) -> Tensor:
    """Logits of a plain pass over one row: behind each token, or, of a decoder, of each token of the answer (n, V)."""
    row = torch.tensor([ids], device=model.device)
    return model(row, use_cache=False, **_decoder_ids(model, answer)).logits[0].float()


def _decoder_ids(model: Any, answer: Ids) -> dict[str, Tensor]:
    if not model.config.is_encoder_decoder:
        return {}
    start = model.generation_config.decoder_start_token_id
    start = model.generation_config.bos_token_id if start is None else start
    return {"decoder_input_ids": torch.tensor([[start, *answer[:-1]]], device=model.device)}


def _difference(found: Tensor, expected: Tensor) -> float:
    """The greatest of any row; NaN if there is one."""
    return float(((found - expected).abs().mean(-1) / expected.std(-1)).max())


def _tokens(ids: Ids) -> list[int]:
    """Six different tokens."""
    return list(dict.fromkeys([*ids, *range(6)]))[:6]


def _paths(tokens: Sequence[int], sees: Tensor) -> list[tuple[int, ...]]:
    """The tokens from the root to each node."""
    return [tuple(tokens[at] for at in row.nonzero().flatten().tolist()) for row in sees]
