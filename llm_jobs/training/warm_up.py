"""Teach a plug with labels what a user would answer, before the LLM is asked.

    examples ─▶ folds ─▶ history dropout ─▶ for each fold a body, fitted to the other folds ─▶ a score for each label
    the LLM's embeddings of the labels' tokens ─▶ what the soft prompt is first made of, by these scores

That takes seconds where training through the LLM takes minutes, and tells later items better than a body that learns
through the LLM, which fits what it has seen too closely.

A body is surer of the examples it was fitted to than of any new task. Words that were learned from its scores of the
same examples would trust it too much, so they are learned from out-of-fold scores (stacked generalization, Wolpert
1992, doi 10.1016/S0893-6080(05)80023-1). Tasks are scored by all bodies, the mean of which tells them better than one.
docs/experiments.md, 2026-11-26, has the numbers.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedder.hashing import text_sha256
from embedder.plug import PersonaPlug
from llm_jobs.training.data import Prepared, TrainConfig, batches, plug_inputs
from llm_jobs.training.descent import Descent
from llm_jobs.training.prefix_cache import Progress

EPOCHS = 3
"""Passes over the examples: the number of the experiments without the LLM, never tuned."""

WORD_LENGTH = 0.3
"""Length, at the start, of a label's direction for one unit of its score; the random bias beside it has length 1."""


def warm_up(plug: PersonaPlug, prepared: Sequence[Prepared], config: TrainConfig, progress: Progress) -> None:
    """Fit the bodies of `plug` in place; examples whose target is no label are passed over."""
    number = {label: at for at, label in enumerate(plug.config.labels)}
    known = [item for item in prepared if item.example.target in number]
    folds = [[item for item in known if fold_of(plug, item) != fold] for fold in range(len(plug.bodies))]
    descents = [
        Descent(list(body.parameters()), config, math.ceil(len(others) / config.batch_size) * EPOCHS, kind_names(plug))
        for body, others in zip(plug.bodies, folds, strict=True)
    ]
    steps = sum(descent.steps for descent in descents)
    for fold, (body, others, descent) in enumerate(zip(plug.bodies, folds, descents, strict=True)):
        rng = np.random.default_rng([config.seed, fold])
        torch.manual_seed(int(rng.integers(2**31)))
        body.train()
        for _ in range(EPOCHS):
            total, count = 0.0, 0
            for batch in batches(others, config.batch_size, rng):
                targets = torch.tensor([number[item.example.target] for item in batch])
                loss = F.cross_entropy(body(*plug_inputs(batch, config, rng))[0], targets)
                descent.descend(loss)
                total, count = total + loss.item() * len(batch), count + len(batch)
                done = sum(descent.step for descent in descents)
                progress(f"steps without the LLM, loss {total / count:.3f}", done, steps)


def kind_names(plug: PersonaPlug) -> str:
    """The kinds of a plug, as messages name them."""
    return ", ".join(plug.config.kinds)


def fold_of(plug: PersonaPlug, item: Prepared) -> int:
    """The body that is not fitted to an example; of equal prompts, whoever asked, the same."""
    return int(text_sha256(item.example.prompt)[:16], 16) % len(plug.bodies)


@torch.no_grad()
def out_of_fold_scores(plug: PersonaPlug, batch: Sequence[Prepared], inputs: Sequence[Tensor]) -> Tensor:
    """(B, L) for each example a score for each label, of the one body that has not seen it.

    Args:
        plug: its bodies are as `warm_up` left them.
        batch: the examples.
        inputs: what `plug_inputs` made of them.
    """
    scores = torch.empty(len(batch), len(plug.config.labels))
    folds = torch.tensor([fold_of(plug, item) for item in batch])
    for fold, body in enumerate(plug.bodies):
        rows = folds == fold
        if rows.any():
            scores[rows] = body.eval()(*(part[rows] for part in inputs))[0]
    return scores


@torch.no_grad()
def start_from_words(plug: PersonaPlug, words: Sequence[Tensor]) -> None:
    """Let each label's score pull the persona vectors towards the label's own words, the first one to its first token.

    Prompts that start from the class labels are what Lester et al. found best (arXiv 2104.08691, section 3.2).

    Args:
        plug: its verbaliser is changed in place.
        words: for each label the LLM's embeddings (n, E) of its tokens, n at least 1; the last one is repeated.
    """
    count, width = plug.config.persona_count, plug.config.llm_width
    starts = [torch.cat([word[:count], word[-1:].expand(max(0, count - len(word)), -1)]) for word in words]
    weight = WORD_LENGTH * F.normalize(torch.stack(starts, dim=-1).float(), dim=1)  # (P, E, L)
    assert isinstance(plug.verbalise, nn.Linear)
    plug.verbalise.weight.copy_(weight.flatten(0, 1))
    plug.verbalise.bias.copy_(F.normalize(plug.verbalise.bias.view(count, width), dim=1).flatten())
