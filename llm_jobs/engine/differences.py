"""How far an engine is from `transformers`, on some token ids: the greatest mean difference of logits.

    packed      two rows of different lengths, read in parts, one more token each, and a tree of choices behind them
    unpacked    a few tokens of `generate`, and a plain pass
    seq-to-seq  two prompts in one batch, step by step and as a whole

Each also reads vectors that are no token's, as those of a soft prompt. Differences are in standard deviations of the
logits.
"""

from collections.abc import Iterator, Sequence
from functools import singledispatch
from typing import Any, Final

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from llm_jobs.engine.causal import CausalLM
from llm_jobs.engine.choices import choice_tree
from llm_jobs.engine.kv_cache import KVCache
from llm_jobs.engine.packing import NewTokens, step
from llm_jobs.engine.prefill import read
from llm_jobs.engine.rules import decoder_start
from llm_jobs.engine.seq2seq import Seq2SeqLM
from llm_jobs.engine.small_copy import REACH
from llm_jobs.engine.unpacked import UnpackedLM

MORE: Final = 5  # tokens that an unpacked model is asked for


def difference(engine: CausalLM | UnpackedLM | Seq2SeqLM, model: PreTrainedModel, ids: Sequence[int]) -> float:
    """Measure how far an engine is from the model that it runs, at most; NaN counts as infinitely far."""
    return max((off if off == off else torch.inf for off in _differences(engine, model, ids)), default=torch.inf)


@singledispatch
def _differences(engine: Any, model: PreTrainedModel, ids: Sequence[int]) -> Iterator[float]:
    raise TypeError(f"{type(engine).__name__} is no engine")


@_differences.register
def _(engine: CausalLM, model: PreTrainedModel, ids: Sequence[int]) -> Iterator[float]:
    trunk, (token, one, two, three, four, end) = engine.trunk, _tokens(ids)
    tree = choice_tree(((one, two, end), (one, three, end), (four, end)))
    rows = [[*ids], [*ids[: len(ids) // 3]]]
    cache = KVCache.empty(trunk.empty_prefix(), len(rows), len(ids) + 1 + len(tree.tokens))

    def embed(some: Sequence[int]) -> Tensor:
        return trunk.embed(torch.tensor(some, dtype=torch.long, device=model.device))

    half = len(ids) // 2
    read(trunk, cache, [NewTokens(0, 0, embed(rows[0][:half]))])
    prompts = read(trunk, cache, [NewTokens(0, half, embed(rows[0][half:])), NewTokens(1, 0, embed(rows[1]))])
    sizes = torch.tensor([len(row) for row in rows], device=model.device)
    batch = step(sizes, cache.cells, cache.store.dtype, trunk.spans)
    steps = trunk.read(embed([token] * len(rows)), batch, cache)
    chunks = [NewTokens(at, len(row) + 1, embed(tree.tokens), tree.sees, tree.depths) for at, row in enumerate(rows)]
    trees = read(trunk, cache, chunks)
    vectors = _vectors(embed(ids[:REACH]))
    vector_cache = KVCache.empty(trunk.empty_prefix(), 1, len(vectors))
    states = read(trunk, vector_cache, [NewTokens(0, 0, vectors)])[0]
    yield _sigmas(trunk.logits(states), _plain_vectors(model, vectors))
    paths = [tuple(tree.tokens[at] for at in row.nonzero().flatten().tolist()) for row in tree.sees]
    for at, row in enumerate(rows):
        logits = trunk.logits(torch.stack([prompts[at][-1], steps[at], *trees[at]]))
        place = {(): 1} | {path: 2 + node for node, path in enumerate(paths)}
        for path in ((one, two), (one, three), (four,)) if at else ((one, three), (four,)):
            expected = _plain(model, [*row, token, *path])[-len(path) - 2 :]
            own = [0, *[place[path[:end]] for end in range(len(path) + 1)]]
            yield _sigmas(logits[own], expected)


@_differences.register
def _(engine: UnpackedLM, model: PreTrainedModel, ids: Sequence[int]) -> Iterator[float]:
    vectors = _vectors(engine.embed(torch.tensor(ids[:REACH], device=model.device)))
    yield _sigmas(engine.read([vectors]).next(), _plain_vectors(model, vectors)[-1:])
    for some in (ids, ids[: REACH - 2]):
        row = torch.tensor([some], device=model.device)
        new, expected = _generated(model, row)
        embeds = engine.embed(row)
        reading = engine.read([embeds[0]])
        own = [reading.next(), *[reading.next(token[None]) for token in new[:-1]]]
        yield _sigmas(torch.cat(own), expected)
        yield _sigmas(engine.forward(embeds, None, len(some)).logits[0].float(), _plain(model, some))


@_differences.register
def _(engine: Seq2SeqLM, model: PreTrainedModel, ids: Sequence[int]) -> Iterator[float]:
    token, one, two, *_ = _tokens(ids)
    answers = [(token, one, two), (token, two)]
    prompts = [engine.embed(engine.tensor(tuple(some))) for some in (ids, ids[: len(ids) // 3])]
    engine.read([_vectors(prompts[0][:REACH])]).next()  # raises if it takes no vectors
    for numbers in [[0], [1]] if engine.alike else [[0, 1]]:
        encoded = engine.read([prompts[at] for at in numbers])
        logits = torch.stack([encoded.next(), encoded.next(engine.tensor((token,) * len(numbers)))], dim=1)  # (B, 2, V)
        means = encoded.log_probs(range(len(numbers)), [answers[at] for at in numbers])
        for row, at in enumerate(numbers):
            expected = _plain(model, ids[: len(ids) // 3] if at else ids, answers[at])
            yield _sigmas(logits[row], expected[:2])
            targets = engine.tensor(answers[at])
            mean = expected.log_softmax(1)[torch.arange(len(targets)), targets].mean()
            yield float((means[row] - mean).abs() / expected.std())


def _generated(model: Any, row: Tensor) -> tuple[Tensor, Tensor]:
    """Let the model continue a row (1, n) greedily, without its own settings: new ids (t,) and logits (t, V)."""
    settings, model.generation_config = model.generation_config, GenerationConfig(pad_token_id=0)
    try:
        output = model.generate(
            row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=MORE,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    finally:
        model.generation_config = settings
    return output.sequences[0, row.shape[1] :], torch.cat(output.logits).float()


def _vectors(embeds: Tensor) -> Tensor:
    """Make vectors (n, E) that are no token's, as those of a soft prompt: each token's mixed with the one before it."""
    return (embeds + embeds.roll(1, 0)) / 2


def _plain_vectors(model: Any, vectors: Tensor) -> Tensor:
    """Run a plain pass for the logits (n, V) over vectors (n, E)."""
    return model(inputs_embeds=vectors[None], use_cache=False).logits[0].float()


def _plain(model: Any, ids: Sequence[int], answer: Sequence[int] = ()) -> Tensor:
    """Run a plain pass over one row: logits (n, V) behind each token, or, of a decoder, of each token of the answer."""
    row = torch.tensor([ids], device=model.device)
    return model(row, use_cache=False, **decoder_ids(model, answer)).logits[0].float()


def decoder_ids(model: Any, answer: Sequence[int]) -> dict[str, Tensor]:
    """Name what a decoder reads before each token of an answer; nothing for a causal LLM."""
    if not model.config.is_encoder_decoder:
        return {}
    start = decoder_start(model.generation_config)
    return {"decoder_input_ids": torch.tensor([[start, *answer[:-1]]], device=model.device)}


def _sigmas(logits: Tensor, expected: Tensor) -> float:
    """Take the greatest difference of any row; NaN if there is one."""
    return float(((logits - expected).abs().mean(-1) / expected.std(-1)).max())


def _tokens(ids: Sequence[int]) -> list[int]:
    """Choose six different tokens."""
    return list(dict.fromkeys([*ids, *range(6)]))[:6]
