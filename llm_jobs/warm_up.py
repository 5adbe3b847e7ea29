"""Teach a plug with labels what a user would answer, before the LLM is asked.

    examples ─▶ history dropout ─▶ the plug's body ─▶ a score for each label ─▶ cross-entropy

That takes seconds where training through the LLM takes minutes, and tells later items better than a body that learns
through the LLM, which fits what it has seen too closely (docs/experiments.md, 2026-11-26).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from embedder.plug import PersonaPlug
from llm_jobs.examples import Prepared, TrainConfig, batches, learning_rate_share, plug_inputs
from llm_jobs.prefix_cache import Progress

EPOCHS = 3
"""Passes over the examples; chosen with the same number for the head of the experiments, never tuned."""


def warm_up(plug: PersonaPlug, prepared: Sequence[Prepared], config: TrainConfig, progress: Progress) -> None:
    """Fit the body of `plug` in place; examples whose target is no label are passed over."""
    number = {label: at for at, label in enumerate(plug.config.labels)}
    known = [item for item in prepared if item.example.target in number]
    steps = math.ceil(len(known) / config.batch_size) * EPOCHS
    optimizer = AdamW(plug.body, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = LambdaLR(optimizer, lambda step: learning_rate_share(step, steps))
    rng = np.random.default_rng([config.seed, len(known)])
    torch.manual_seed(config.seed)
    plug.train()
    done = 0
    for _ in range(EPOCHS):
        for batch in batches(known, config.batch_size, rng):
            targets = torch.tensor([number[item.example.target] for item in batch])
            loss = F.cross_entropy(plug.label_scores(*plug_inputs(batch, config, rng)), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plug.body, 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            progress(f"steps without the LLM, loss {loss.item():.3f}", done, steps)
