"""A LoRA adapter of his own for each user, after OPPU (arXiv 2402.04401), for the users with most items.

    base LLM ─┬─▶ copy + adapter, trained on the items of user 1 ─▶ merged ─▶ FrozenLLM ─▶ answers to his tasks
              └─▶ copy + adapter, trained on the items of user 2 ─▶ ...

Every user starts from the same weights and the same seed. The adapter's places are those peft knows for the
architecture: q and v.
"""

import copy
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.prompts import Placement, PromptRefused
from pipelines.baselines.extra import required
from pipelines.examples import Target

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoraConfig:
    """How each adapter is trained."""

    rank: int = 8
    alpha: int = 16
    """The adapter's product is scaled by alpha / rank."""
    epochs: int = 3
    batch_size: int = 8
    learning_rate: float = 1e-3
    newest: int = 128
    """Most items of a user that are trained on, the newest."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Adapted:
    """A user's LLM, its adapter merged into the weights."""

    llm: FrozenLLM
    parameters: int
    """Trained numbers of one user."""
    seconds: float


def most_active(targets: Sequence[Target], with_tasks: Sequence[str], count: int) -> list[str]:
    """Of the users with tasks the `count` with most items to train on; of equally active ones the first ids."""
    items = Counter(target.user_id for target in targets)
    active = sorted({user for user in with_tasks if items[user]}, key=lambda user: (-items[user], user))
    return active[:count]


def adapt(base: FrozenLLM, folder: Any, targets: Sequence[Target], config: LoraConfig) -> Adapted:
    """Train an adapter on one user's items and merge it into a copy of the LLM.

    Args:
        base: the LLM; unchanged.
        folder: of the LLM, for its fingerprint.
        targets: what the user produced.
        config: how it is trained.
    """
    peft = required("peft")
    start = time.perf_counter()
    short = [target for target in targets if tokens_of(target, base) is not None]
    if len(short) < len(targets):
        logger.warning(
            "%d of %d items are too long for the LLM: no adapter sees them", len(targets) - len(short), len(targets)
        )
    newest = sorted(short, key=lambda target: (target.moment, target.prompt))[-config.newest :]
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(config.seed)
        settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha)
        model = peft.get_peft_model(copy.deepcopy(base.model), settings)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=config.learning_rate)
        rng = np.random.default_rng(config.seed)
        model.train()
        for _ in range(config.epochs):
            order = rng.permutation(len(newest))
            for at in range(0, len(order), config.batch_size):
                optimizer.zero_grad()
                batch_loss(model, base, [newest[index] for index in order[at : at + config.batch_size]]).backward()
                optimizer.step()
    settings: dict[str, Any] = {"num_beams": base.num_beams, "thinking": base.thinking}
    merged = FrozenLLM(model.merge_and_unload(), base.format.tokenizer, folder, **settings)
    return Adapted(merged, sum(weight.numel() for weight in trained), time.perf_counter() - start)


def tokens_of(target: Target, llm: FrozenLLM) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The token ids of prompt and answer, worded as when it is answered; None if the LLM's context has no room."""
    answer = llm.answer_ids(target.target)
    try:
        parts = llm.parts(target.prompt, Placement.AFTER, len(answer))
    except PromptRefused:
        return None
    return parts.before + parts.after, answer


def batch_loss(model: Any, llm: FrozenLLM, targets: Sequence[Target]) -> Tensor:
    """Mean loss of the answers' tokens, of targets that the LLM has room for."""
    known = [tokens for target in targets if (tokens := tokens_of(target, llm)) is not None]
    prompts, answers = [prompt for prompt, _ in known], [answer for _, answer in known]
    if llm.is_encoder_decoder:
        rows, labels = prompts, [list(answer) for answer in answers]
    else:
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        labels = [[-100] * len(prompt) + list(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    ids = filled(rows, 0)
    mask = filled([[1] * len(row) for row in rows], 0)
    return model(input_ids=ids, attention_mask=mask, labels=filled(labels, -100)).loss


def filled(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """(B, longest), filled at the end."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=filler)
