"""Train a plug through the frozen LLM, with the next-token loss on what the user really wrote.

    examples ─▶ history dropout ─▶ plug ─▶ soft prompt ─▶ frozen LLM ─▶ loss of the target's tokens ─▶ plug

A plug with labels first learns to tell these apart without the LLM (warm_up.py); then only what puts them into words is
trained, on the scores that examples get from a body that has not seen them. Any other plug is trained as a whole.

The prompt's part before the soft prompt needs no gradient: its keys and values are computed once and kept between
epochs while they fit in memory. A plug that sees the LLM's values gets those of all examples before it starts. After
each epoch the state is saved, and a killed run goes on from there to the same weights. The weights of the epoch with
the least loss on held-out users are saved as the plug, once all epochs are done.
"""

import hashlib
import json
import logging
import math
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from embedder.errors import PplugError
from embedder.personas import FloatArray
from embedder.plug import PersonaPlug
from embedder.plug_config import PlugConfig
from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.prompts import Placement, PromptRefused
from llm_jobs.training import REPORT
from llm_jobs.training.checkpoint import Checkpoint, EpochLoss, RunState, run_fingerprint
from llm_jobs.training.data import Example, Prepared, TrainConfig, batches, plug_inputs, split_users
from llm_jobs.training.descent import Descent
from llm_jobs.training.prefix_cache import PREFIXES_AT_ONCE, PrefixCache, Progress
from llm_jobs.training.warm_up import kind_names, out_of_fold_scores, start_from_words, warm_up

logger = logging.getLogger(__name__)

NAMED_AT_MOST = 5
"""Skipped examples that a warning names."""

ROWS = 8
"""Rows of a batch that go through the LLM together, the shortest answers first: with 32, a quarter would be padding."""


def train_plug(
    plug: PersonaPlug,
    llm: FrozenLLM,
    prepared: Sequence[Prepared],
    config: TrainConfig,
    folder: Path,
    progress: Progress,
) -> list[EpochLoss]:
    """Fit `plug` in place to examples that `prepare` made, and save it in `folder`.

    Returns:
        The losses of each epoch, those before a resume too.

    Raises:
        PplugError: if there is nothing to train on.
    """
    train, held_out = split_users(prepared, config.held_out)
    if not train:
        raise PplugError("no example to train on: ingest histories with an `output`, or name a night with --tasks")
    run = TrainingRun(plug, llm, config, train, progress)
    identity = run_fingerprint(plug, asdict(config), fingerprint_parts(prepared))
    checkpoint = Checkpoint(folder / "checkpoint", identity)
    losses = checkpoint.load(run.state)
    if plug.has_committee and not any(item.example.target in plug.config.labels for item in train):
        raise PplugError(f"no target is one of the labels ({', '.join(plug.config.labels)}): correct the choices")
    train, held_out = run.with_values(train), run.with_values(held_out)
    if not losses and plug.config.values_width:
        plug.standardise(torch.from_numpy(np.stack([item.values for item in train if item.values is not None])))
    if plug.has_committee and not losses:
        warm_up(plug, train, config, progress)
        start_from_words(plug, [llm.token_embeddings(llm.answer_ids(label)[:-1]) for label in plug.config.labels])
    while len(losses) < config.epochs and not is_stuck(losses, config.patience):
        train_loss = run.fit_epoch(train, losses)
        losses.append(EpochLoss(len(losses), train_loss, run.loss_of(held_out) if held_out else train_loss))
        if losses[-1].held_out <= min(loss.held_out for loss in losses):
            run.state.best = {name: value.clone() for name, value in plug.state_dict().items()}
        checkpoint.save(run.state, losses)
    plug.load_state_dict(run.state.best)
    plug.eval()
    plug.save_pretrained(folder)
    write_report(folder, config, losses, len(train))
    shutil.rmtree(checkpoint.folder)
    return losses


def is_stuck(losses: Sequence[EpochLoss], patience: int) -> bool:
    """Whether the last `patience` epochs were all no better than one before them."""
    held_out = [loss.held_out for loss in losses]
    return len(losses) > patience and min(held_out[-patience:]) >= min(held_out[:-patience])


def prepare(examples: Sequence[Example], llm: FrozenLLM, placement: Placement) -> list[Prepared]:
    """Tokenise prompts and targets; prompts too long for the LLM lose the middle of their input, told in a warning.

    Examples that the LLM cannot take, as their target alone fills its context, are left out and named in a warning.
    """
    prepared, refused = list[Prepared](), list[tuple[str, PromptRefused]]()
    for example in examples:
        answer = llm.answer_ids(example.target)
        try:
            parts = llm.parts(example.prompt, placement, reserve=len(answer) + 16)
        except PromptRefused as error:
            refused.append((example.key, error))
        else:
            prepared.append(Prepared(example, parts, answer))
    tell_of_skipped(refused, len(examples))
    if count := shortened_count(prepared):
        told = "%d of %d prompts lost their middle to fit the %d tokens that the LLM reads"
        logger.warning(told, count, len(prepared), llm.context_length)
    return prepared


def shortened_count(prepared: Sequence[Prepared]) -> int:
    """Examples whose prompt lost its middle."""
    return sum(item.parts.is_shortened for item in prepared)


def tell_of_skipped(refused: Sequence[tuple[str, PromptRefused]], count: int) -> None:
    """Warn of examples that are left out: how many, which, and why."""
    for reason, same in groupby(sorted(refused, key=reason_of), key=reason_of):
        keys = [key for key, _ in same]
        told = "; ".join(keys[:NAMED_AT_MOST]) + (" ..." if len(keys) > NAMED_AT_MOST else "")
        logger.warning("%d of %d examples are skipped (%s): %s", len(keys), count, reason, told)


def reason_of(refused: tuple[str, PromptRefused]) -> str:
    """Why an example is left out."""
    return refused[1].refusal.reason


def guessing_loss(prepared: Sequence[Prepared], labels: Sequence[str]) -> float:
    """Mean loss of a token, as in `EpochLoss`, of answering any of the labels with equal probability."""
    return math.log(len(labels)) * sum(1 / len(item.answer) for item in prepared) / len(prepared)


def work_tokens(prepared: Sequence[Prepared], plug: PlugConfig, epochs: int) -> int:
    """Tokens the LLM computes: prompts once, and in each epoch what stands behind them."""
    behind = sum(plug.soft_count + item.behind for item in prepared)
    return sum(len(item.parts.before) for item in prepared) + epochs * behind


def fingerprint_parts(prepared: Sequence[Prepared]) -> Iterator[tuple[bytes, ...]]:
    """What of each example changes the result of training; histories as their hashes."""
    for item, history in zip(prepared, history_hashes([item.example.history for item in prepared]), strict=True):
        example = item.example
        texts = (example.user_id, example.prompt, example.target)
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


def write_report(folder: Path, config: TrainConfig, losses: Sequence[EpochLoss], example_count: int) -> None:
    """Leave beside the plug how it was trained."""
    report = {
        "settings": asdict(config),
        "losses": [asdict(loss) for loss in losses],
        "example_count": example_count,
    }
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf8")


def seeded_plug(config: PlugConfig, seed: int) -> PersonaPlug:
    """A new plug whose start weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PersonaPlug(config)


class TrainingRun:
    """The plug, its optimizer, and the LLM they go through."""

    def __init__(
        self, plug: PersonaPlug, llm: FrozenLLM, config: TrainConfig, train: Sequence[Prepared], progress: Progress
    ) -> None:
        self.plug, self.llm, self.config, self.progress = plug, llm, config, progress
        steps = math.ceil(len(train) / config.batch_size) * config.epochs
        self.state = RunState(plug, Descent(plug.trained_through_llm, config, steps, kind_names(plug)))
        befores = [item.parts.before for item in train]
        self.cache = PrefixCache(llm, befores, int(config.cache_gib * 2**30), progress)

    def with_values(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """The examples with the LLM's pooled values of their prompts, where the plug sees these."""
        if not self.plug.config.values_width:
            return list(prepared)
        found: list[Prepared] = []
        for start in range(0, len(prepared), PREFIXES_AT_ONCE):
            chunk = prepared[start : start + PREFIXES_AT_ONCE]
            prefixes = self.cache.prefixes([item.parts.before for item in chunk]) or []
            found += [
                replace(item, values=prefix.pooled_values.cpu().numpy())
                for item, prefix in zip(chunk, prefixes, strict=True)
            ]
            self.progress("values of prompts", len(found), len(prepared))
        return found

    def fit_epoch(self, prepared: Sequence[Prepared], earlier: Sequence[EpochLoss] = ()) -> float:
        """One pass in a random order that depends on the seed and the number of `earlier` epochs only."""
        rng = np.random.default_rng([self.config.seed, len(earlier)])
        told = f", held out {earlier[-1].held_out:.3f}" if earlier else ""
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
    def loss_of(self, prepared: Sequence[Prepared]) -> float:
        """Mean loss with the full history and without dropout."""
        self.plug.eval()
        losses = [self.losses(batch, None) for batch in batches(prepared, self.config.batch_size, None)]
        mean = torch.cat(losses).mean().item()
        self.state.descent.require_finite("loss on held-out users", mean)
        return mean

    def losses(self, batch: Sequence[Prepared], rng: np.random.Generator | None) -> Tensor:
        """(B,) negative mean log-probability of each target's tokens, in the order of the batch.

        With `rng`, of a random part of each history, and of label scores from a body that has not seen the example.
        """
        inputs = plug_inputs(batch, self.config, rng)
        if rng is not None and self.plug.has_committee:
            soft = self.plug.soft_prompt(out_of_fold_scores(self.plug, batch, inputs))
        else:
            soft, _ = self.plug(*inputs)
        order = sorted(range(len(batch)), key=lambda at: batch[at].behind)
        rows = len(order) if self.plug.config.labels else ROWS  # labels are short: there is little to save
        parts = [self._losses(batch, soft, order[at : at + rows]) for at in range(0, len(order), rows)]
        return torch.cat(parts)[np.argsort(order)]

    def _losses(self, batch: Sequence[Prepared], soft: Tensor, rows: Sequence[int]) -> Tensor:
        """(R,) the same of R rows of the batch."""
        chosen = [batch[row] for row in rows]
        prefixes = self.cache.prefixes([item.parts.before for item in chosen])
        return -self.llm.answer_log_probs(
            [item.parts for item in chosen], soft[rows], [item.answer for item in chosen], prefixes
        )
