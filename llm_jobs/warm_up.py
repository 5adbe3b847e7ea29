"""Teach a plug with labels what a user would answer, before the LLM is asked.

    examples ─▶ history dropout ─▶ the plug's body ─▶ a score for each label ─▶ cross-entropy
    the LLM's embeddings of the labels' tokens ─▶ what the soft prompt is first made of, by these scores

That takes seconds where training through the LLM takes minutes, and tells later items better than a body that learns
through the LLM, which fits what it has seen too closely (docs/experiments.md, 2026-11-26).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedder.plug import PersonaPlug
from llm_jobs.descent import Descent
from llm_jobs.prefix_cache import Progress
from llm_jobs.training_data import Prepared, TrainConfig, batches, plug_inputs

EPOCHS = 3
"""Passes over the examples: the number of the experiments without the LLM, never tuned."""

WORD_LENGTH = 0.3
"""Length, at the start, of a label's direction for one unit of its score; the random bias beside it has length 1."""


def warm_up(plug: PersonaPlug, prepared: Sequence[Prepared], config: TrainConfig, progress: Progress) -> None:
    """Fit the body of `plug` in place; examples whose target is no label are passed over."""
    number = {label: at for at, label in enumerate(plug.config.labels)}
    known = [item for item in prepared if item.example.target in number]
    steps = math.ceil(len(known) / config.batch_size) * EPOCHS
    descent = Descent(plug.body, config, steps)
    rng = np.random.default_rng([config.seed, len(known)])
    torch.manual_seed(config.seed)
    plug.train()
    for _ in range(EPOCHS):
        total, count = 0.0, 0
        for batch in batches(known, config.batch_size, rng):
            targets = torch.tensor([number[item.example.target] for item in batch])
            loss = F.cross_entropy(plug.label_scores(*plug_inputs(batch, config, rng)), targets)
            descent.descend(loss)
            total, count = total + loss.item() * len(batch), count + len(batch)
            progress(f"steps without the LLM, loss {total / count:.3f}", descent.step, steps)


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
