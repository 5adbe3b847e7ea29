"""What a plug is trained on, and how: examples, batches of them, and the settings of a run.

Example ─▶ Tokenised (token ids) ─▶ batches of like lengths ─▶ history dropout ─▶ inputs of the plug
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embedder.compact import FloatArray
from embedder.errors import PplugError
from embedder.hashing import hash_share
from embedder.histories import History, pad_histories
from llm_jobs.prompts import PromptParts, Turns


@dataclass(frozen=True)
class TrainConfig:
    """How a plug is trained."""

    epochs: int = 3
    """Most passes over the examples; the learning rate falls to 0 at their end."""
    patience: int = 2
    """Passes without a smaller loss on held-out users after which training stops."""
    batch_size: int = 32
    learning_rate: float = 3e-3
    """Peak. Prompt tuning through a frozen model wants far more than fine-tuning does."""
    weight_decay: float = 0.01
    history_limit: int = 256
    """Most history vectors of one example; longer histories are sampled anew in each epoch."""
    least_kept: float = 0.3
    """History dropout keeps a share of the items drawn between this and 1."""
    drop_all: float = 0.05
    """Share of the examples that see no history, which trains the default persona."""
    held_out: float = 0.1
    """Share of the users, chosen by hash, whose examples only tell when to stop."""
    cache_gib: float = 6.0
    """Memory for keys and values of prompts that are kept between epochs."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.patience) < 1:
            counts = f"{self.epochs}, {self.batch_size} and {self.patience}"
            raise PplugError(f"training needs epochs, batch_size and patience of at least 1, not {counts}")


@dataclass(frozen=True, eq=False)
class Example:
    """One thing a user produced, and what they had done before it."""

    user_id: str
    prompt: str
    target: str
    task: FloatArray
    """(D,) encoded task input."""
    history: FloatArray
    """(n, D) vectors of the user's items strictly before this one, oldest first; n may be 0."""
    outputs: Sequence[str | None] = ()
    """What the user produced for each item, oldest first: of all their items, so that a user's examples share it; those
    of the history come first."""
    turns: Turns = ()
    """Earlier turns of the conversation, before the prompt."""


@dataclass(frozen=True, eq=False)
class Tokenised:
    """An example with its prompt and target as token ids."""

    example: Example
    parts: PromptParts
    answer: tuple[int, ...]
    values: FloatArray | None = None
    """(V,) the LLM's pooled values of the prompt, where the plug sees them."""

    @property
    def behind(self) -> int:
        """Tokens behind the soft prompt, the answer included: computed anew in each epoch."""
        return len(self.parts.after) + len(self.answer)


def split_users(prepared: Sequence[Tokenised], held_out: float) -> tuple[list[Tokenised], list[Tokenised]]:
    """Examples to fit, and examples of the users held out; of users who all would be, all examples to fit."""
    parts: tuple[list[Tokenised], list[Tokenised]] = ([], [])
    for item in prepared:
        parts[hash_share(item.example.user_id) < held_out].append(item)
    return parts if parts[0] else (list(prepared), [])


def drop_history(history: FloatArray, config: TrainConfig, rng: np.random.Generator) -> FloatArray:
    """A random part of a history, in order; sometimes nothing of it."""
    if rng.random() < config.drop_all:
        return history[:0]
    kept = math.ceil(len(history) * rng.uniform(config.least_kept, 1))
    chosen = rng.choice(len(history), min(kept, config.history_limit), replace=False)
    return history[np.sort(chosen)]


def plug_inputs(batch: Sequence[Tokenised], config: TrainConfig, rng: np.random.Generator | None) -> tuple[Tensor, ...]:
    """What the plug takes of a batch: task, vectors, counts and recent.

    With `rng` a random part of each history.
    """
    histories = [item.example.history for item in batch]
    if rng is not None:
        histories = [drop_history(history, config, rng) for history in histories]
    tasks = np.stack([item.example.task for item in batch])
    padded = pad_histories([History.of_items(one) for one in histories], tasks.shape[1])
    return torch.from_numpy(tasks), *padded


def batches(prepared: Sequence[Tokenised], size: int, rng: np.random.Generator | None) -> Iterator[list[Tokenised]]:
    """Batches of like prompts, so that little is padded: in random order for training, shortest first without `rng`.

    Answers of a batch stay mixed: from batches of answers of one length a plug learns less (docs/experiments.md,
    2026-11-26).
    """
    order = np.arange(len(prepared)) if rng is None else rng.permutation(len(prepared))
    window = len(order) if rng is None else 16 * size
    found: list[list[Tokenised]] = []
    for start in range(0, len(order), window):
        near = sorted(order[start : start + window], key=lambda index: len(prepared[index].parts.before))
        found += [[prepared[index] for index in near[at : at + size]] for at in range(0, len(near), size)]
    yield from found if rng is None else (found[index] for index in rng.permutation(len(found)))
