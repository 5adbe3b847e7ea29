"""The stage of training that goes through the frozen LLM: the next-token loss on what users really wrote.

    examples ─▶ history dropout ─▶ plug ─▶ soft prompt ─▶ frozen LLM ─▶ loss of the target's tokens ─▶ plug

The prompt's part before the soft prompt needs no gradient: its keys and values are computed once and kept between
epochs while they fit in memory. After
each epoch the state is saved, and a killed run goes on from there to the same weights; those of the epoch with the
least loss on held-out users are the plug's.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from embedder.compact import FloatArray
from embedder.devices import in_halves
from embedder.plug import PersonaPlug
from embedder.plug_config import PlugConfig
from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.training.checkpoint import Checkpoint, EpochLoss, RunState, run_fingerprint
from llm_jobs.training.data import Tokenised, TrainConfig, batches, plug_inputs
from llm_jobs.training.descent import Descent
from llm_jobs.training.prefix_cache import PrefixCache, Progress
from llm_jobs.training.training import Training, kind_names

ROWS = 8
"""Rows of a batch that go through the LLM together, the shortest answers first: with 32, a quarter would be padding."""


def fit_through_llm(training: Training) -> list[EpochLoss]:
    """Fit all weights of the plug in place; the losses of each epoch, those before a resume too."""
    plug, config = training.plug, training.config
    run = TrainingRun(plug, training.llm, config, training.train, training.progress)
    identity = run_fingerprint(plug, asdict(config), fingerprint_parts(chain(training.train, training.held_out)))
    checkpoint = Checkpoint(training.folder / "checkpoint", identity)
    losses = checkpoint.load(run.state)
    while len(losses) < config.epochs and not is_stuck(losses, config.patience):
        train_loss = run.fit_epoch(training.train, losses)
        held_out_loss = run.loss_of(training.held_out) if training.held_out else train_loss
        losses.append(EpochLoss(len(losses), train_loss, held_out_loss))
        if losses[-1].held_out <= min(loss.held_out for loss in losses):
            run.state.best = {name: value.clone() for name, value in plug.state_dict().items()}
        checkpoint.save(run.state, losses)
    plug.load_state_dict(run.state.best)
    return losses


def is_stuck(losses: Sequence[EpochLoss], patience: int) -> bool:
    """Whether the last `patience` epochs were all no better than one before them."""
    held_out = [loss.held_out for loss in losses]
    return len(losses) > patience and min(held_out[-patience:]) >= min(held_out[:-patience])


def work_tokens(prepared: Sequence[Tokenised], plug: PlugConfig, epochs: int) -> int:
    """Tokens the LLM computes: prompts once, and in each epoch what stands behind them.

    For a plug with labels only the prompts, and these where it sees the LLM's values.
    """
    if plug.labels:
        return sum(len(item.parts.before) for item in prepared) if plug.values_width else 0
    behind = sum(plug.soft_count + item.behind for item in prepared)
    return sum(len(item.parts.before) for item in prepared) + epochs * behind


def fingerprint_parts(examples: Iterable[Tokenised]) -> Iterator[tuple[bytes, ...]]:
    """What of each example changes the result of training; histories as their hashes."""
    prepared = list(examples)
    for item, history in zip(prepared, history_hashes([item.example.history for item in prepared]), strict=True):
        example = item.example
        turns = (str(item.parts.before),) if example.turns else ()  # how they are written counts, too
        texts = (example.user_id, *turns, example.prompt, example.target)
        yield (*(text.encode("utf8", "replace") for text in texts), example.task.tobytes(), history)


def history_hashes(histories: Sequence[FloatArray]) -> list[bytes]:
    """The sha256 of each history's bytes.

    The examples of a user see the beginnings of one array, longer and longer ones: each byte of it is read once.
    """
    alike = defaultdict[tuple[int, ...], list[int]](list)  # by where a history begins and how it lies in memory
    for at, history in enumerate(histories):
        alike[history.ctypes.data, *history.strides, *history.shape[1:]].append(at)
    found = [b""] * len(histories)
    for places in alike.values():
        digest, read = hashlib.sha256(), 0
        for at in sorted(places, key=lambda at: len(histories[at])):
            digest.update(histories[at][read:].tobytes())
            read = len(histories[at])
            found[at] = digest.digest()
    return found


class TrainingRun:
    """The plug, its optimizer, and the LLM they go through."""

    def __init__(
        self,
        plug: PersonaPlug,
        llm: FrozenLLM,
        config: TrainConfig,
        train: Sequence[Tokenised],
        progress: Progress,
    ) -> None:
        self.plug, self.llm, self.config, self.progress = plug, llm, config, progress
        steps = math.ceil(len(train) / config.batch_size) * config.epochs
        self.state = RunState(plug, Descent(list(plug.parameters()), config, steps, kind_names(plug)))
        befores = [item.parts.before for item in train]
        self.cache = PrefixCache(llm, befores, int(config.cache_gib * 2**30), progress)

    def fit_epoch(self, prepared: Sequence[Tokenised], earlier: Sequence[EpochLoss] = ()) -> float:
        """One pass in a random order that depends on the seed and the number of `earlier` epochs only."""
        rng = np.random.default_rng([self.config.seed, len(earlier)])
        known = earlier and earlier[-1].held_out != earlier[-1].train  # the same where nobody was held out
        told = f", held out {earlier[-1].held_out:.3f}" if known else ""
        torch.manual_seed(int(rng.integers(2**31)))
        self.plug.train()
        descent, total, count = self.state.descent, 0.0, 0
        for batch in batches(prepared, self.config.batch_size, rng):
            loss = self.losses(batch, rng).mean()
            descent.descend(loss)
            total, count = total + loss.item() * len(batch), count + len(batch)
            self.progress(f"steps, loss {total / count:.3f}{told}", descent.step, descent.steps)
        return total / count

    @torch.no_grad()
    def loss_of(self, prepared: Sequence[Tokenised]) -> float:
        """Mean loss with the full history and without dropout."""
        self.plug.eval()
        losses = [self.losses(batch, None) for batch in batches(prepared, self.config.batch_size, None)]
        mean = torch.cat(losses).mean().item()
        self.state.descent.require_finite("loss on held-out users", mean)
        return mean

    def losses(self, batch: Sequence[Tokenised], rng: np.random.Generator | None) -> Tensor:
        """(B,) negative mean log-probability of each target's tokens, in the order of the batch.

        With `rng`, of a random part of each history.
        """
        soft, _ = self.plug(*plug_inputs(batch, self.config, rng))
        order = sorted(range(len(batch)), key=lambda at: batch[at].behind)
        parts = [order[at : at + ROWS] for at in range(0, len(order), ROWS)]
        found = [done for rows in parts for done in in_halves(partial(self._losses, batch, soft), rows)]
        losses, gradients = (torch.cat(column)[np.argsort(order)] for column in zip(*found, strict=True))
        # The LLM is done with, so that memory holds it for one part at a time; this sum has the value and the gradient.
        along = (soft * gradients).sum((1, 2))
        return losses + along - along.detach()

    def _losses(self, batch: Sequence[Tokenised], soft: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(R,) the same of R rows of the batch, and its gradient (R, S, E) by their soft prompts; zeros without one."""
        chosen = [batch[row] for row in rows]
        prefixes = self.cache.prefixes([item.parts.before for item in chosen])
        vectors = soft.detach()[list(rows)].requires_grad_(soft.requires_grad)
        losses = -self.llm.answer_log_probs(
            [item.parts for item in chosen], vectors, [item.answer for item in chosen], prefixes
        )
        gradient = torch.autograd.grad(losses.sum(), vectors)[0] if losses.requires_grad else vectors.new_zeros(())
        return losses.detach().to(soft.device), gradient.expand_as(vectors)
