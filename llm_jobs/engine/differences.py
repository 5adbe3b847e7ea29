"""How far a way to run an LLM is from `transformers`, on some token ids: the greatest mean difference of logits.

    packed      two rows of different lengths, read in parts, one more token each, and a tree of choices behind them
    unpacked    a few tokens of `generate`, and a plain pass
    seq-to-seq  two prompts in one batch, step by step and as a whole

Each also reads vectors that are no token's, as those of a soft prompt. Differences are in standard deviations of the
logits.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from llm_jobs.engine.choices import choice_tree
from llm_jobs.engine.continuous import read
from llm_jobs.engine.kv_cache import KVCache
from llm_jobs.engine.packing import Piece, step
from llm_jobs.engine.rules import Rules
from llm_jobs.engine.seq2seq import Seq2SeqLM
from llm_jobs.engine.small_copy import REACH
from llm_jobs.engine.trunk import Trunk
from llm_jobs.engine.unpacked import UnpackedLM
from llm_jobs.prompts import PromptParts

Ids = Sequence[int]

MORE = 5
"""Tokens that an unpacked model is asked for."""


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
    vectors = _vectors(embed(ids[:REACH]))
    found = [_difference(trunk.logits(_read_vectors(trunk, vectors)), _plain_vectors(model, vectors))]
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
    vectors = _vectors(engine.embed(torch.tensor(ids[:REACH], device=model.device)))[None]
    found = [_difference(engine.steps(vectors).first(), _plain_vectors(model, vectors[0])[-1:])]
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
    vectors = _vectors(engine.embed(torch.tensor(ids[:REACH], device=model.device)))
    engine.step_logits([PromptParts((), ())], vectors[None], [token])  # raises if it takes no vectors
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


def _vectors(embeds: Tensor) -> Tensor:
    """Vectors (n, E) that are no token's, as those of a soft prompt: each token's mixed with the one before it."""
    return (embeds + embeds.roll(1, 0)) / 2


def _read_vectors(trunk: Trunk, vectors: Tensor) -> Tensor:
    """Hidden states (n, E)."""
    cache = KVCache.empty(trunk.empty_prefix(), 1, len(vectors))
    return read(trunk, cache, [Piece(0, 0, vectors)])[0]


def _plain_vectors(model: Any, vectors: Tensor) -> Tensor:
    """Logits (n, V) of a plain pass over vectors (n, E)."""
    return model(inputs_embeds=vectors[None], use_cache=False).logits[0].float()


def _plain(model: Any, ids: Ids, answer: Ids = ()) -> Tensor:
    """Logits of a plain pass over one row: behind each token, or, of a decoder, of each token of the answer (n, V)."""
    row = torch.tensor([ids], device=model.device)
    return model(row, use_cache=False, **decoder_ids(model, answer)).logits[0].float()


def decoder_ids(model: Any, answer: Ids) -> dict[str, Tensor]:
    """What a decoder reads before each token of an answer; nothing for a causal LLM."""
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
