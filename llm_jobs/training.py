"""Train a plug end to end through the frozen LLM, with the next-token loss on what the user really wrote.

    examples ─▶ history dropout ─▶ plug ─▶ soft prompt ─▶ frozen LLM ─▶ loss of the target's tokens ─▶ plug

The prompt's part before the soft prompt needs no gradient: its keys and values are computed once and kept between
epochs while they fit in memory. After each epoch the state is saved, and a killed run goes on from there to the same
weights. The weights of the epoch with the least loss on held-out users are saved as the plug, once all epochs are done.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from embedder.errors import PplugError
from embedder.histories import History, pad_histories
from embedder.plug import PersonaPlug, PlugConfig
from llm_jobs.checkpoint import Checkpoint, EpochLoss, RunState, run_fingerprint
from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.prefix_cache import PrefixCache, Progress
from llm_jobs.prompts import Placement, PromptParts

FloatArray = NDArray[np.float32]


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
class Prepared:
    """An example with its prompt and target as token ids."""

    example: Example
    parts: PromptParts
    answer: tuple[int, ...]


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
    identity = run_fingerprint(plug, asdict(config), [fingerprint_parts(item) for item in prepared])
    checkpoint = Checkpoint(folder / "checkpoint", identity)
    losses = checkpoint.load(run.state)
    while len(losses) < config.epochs and not is_stuck(losses, config.patience):
        train_loss = run.fit_epoch(train, losses)
        losses.append(EpochLoss(len(losses), train_loss, run.loss_of(held_out) if held_out else train_loss))
        if losses[-1].held_out <= min(loss.held_out for loss in losses):
            run.state.best = {name: value.clone() for name, value in plug.state_dict().items()}
        checkpoint.save(run.state, losses)
    plug.load_state_dict(run.state.best)
    plug.eval()
    plug.save_pretrained(folder)
    write_report(folder, config, losses, train)
    shutil.rmtree(checkpoint.folder)
    return losses


def is_stuck(losses: Sequence[EpochLoss], patience: int) -> bool:
    """Whether the last `patience` epochs were all no better than one before them."""
    held_out = [loss.held_out for loss in losses]
    return len(losses) > patience and min(held_out[-patience:]) >= min(held_out[:-patience])


def prepare(examples: Sequence[Example], llm: FrozenLLM, placement: Placement) -> list[Prepared]:
    """Tokenise prompts and targets; prompts too long for the LLM are shortened in the middle of their input."""
    prepared: list[Prepared] = []
    for example in examples:
        answer = llm.answer_ids(example.target)
        prepared.append(Prepared(example, llm.parts(example.prompt, placement, reserve=len(answer) + 16), answer))
    return prepared


def work_tokens(prepared: Sequence[Prepared], plug: PlugConfig, epochs: int) -> int:
    """Tokens the LLM computes: prompts once, and in each epoch what stands behind them."""
    behind = sum(plug.soft_count + len(item.parts.after) + len(item.answer) for item in prepared)
    return sum(len(item.parts.before) for item in prepared) + epochs * behind


def split_users(prepared: Sequence[Prepared], held_out: float) -> tuple[list[Prepared], list[Prepared]]:
    """Examples to fit, and examples of the users held out."""
    parts: tuple[list[Prepared], list[Prepared]] = ([], [])
    for item in prepared:
        digest = hashlib.sha256(item.example.user_id.encode("utf8", "replace")).digest()
        parts[int.from_bytes(digest[:4], "big") / 2**32 < held_out].append(item)
    return parts


def fingerprint_parts(item: Prepared) -> tuple[bytes, ...]:
    """What of an example changes the result of training."""
    example = item.example
    texts = (example.user_id, example.prompt, example.target)
    return (*(text.encode("utf8", "replace") for text in texts), example.task.tobytes(), example.history.tobytes())


def write_report(folder: Path, config: TrainConfig, losses: Sequence[EpochLoss], train: Sequence[Prepared]) -> None:
    """Leave beside the plug how it was trained and, as hashes of their ids, on whose histories."""
    users = {hashlib.sha256(item.example.user_id.encode("utf8", "replace")).hexdigest() for item in train}
    report = {
        "settings": asdict(config),
        "losses": [asdict(loss) for loss in losses],
        "example_count": len(train),
        "user_id_sha256": sorted(users),
    }
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf8")


def drop_history(history: FloatArray, config: TrainConfig, rng: np.random.Generator) -> FloatArray:
    """A random part of a history, in order; sometimes nothing of it."""
    if rng.random() < config.drop_all:
        return history[:0]
    kept = math.ceil(len(history) * rng.uniform(config.least_kept, 1))
    chosen = rng.choice(len(history), min(kept, config.history_limit), replace=False)
    return history[np.sort(chosen)]


def batches(prepared: Sequence[Prepared], size: int, rng: np.random.Generator | None) -> Iterator[list[Prepared]]:
    """Batches of like lengths, so that little is padded: in random order for training, shortest first without `rng`."""
    order = np.arange(len(prepared)) if rng is None else rng.permutation(len(prepared))
    window = len(order) if rng is None else 16 * size
    found: list[list[Prepared]] = []
    for start in range(0, len(order), window):
        near = sorted(order[start : start + window], key=lambda index: len(prepared[index].parts.before))
        found += [[prepared[index] for index in near[at : at + size]] for at in range(0, len(near), size)]
    yield from found if rng is None else (found[index] for index in rng.permutation(len(found)))


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
        self.steps = math.ceil(len(train) / config.batch_size) * config.epochs
        optimizer = AdamW(plug.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = LambdaLR(optimizer, lambda step: learning_rate_share(step, self.steps))
        self.state = RunState(plug, optimizer, schedule)
        befores = [item.parts.before for item in train]
        self.cache = PrefixCache(llm, befores, int(config.cache_gib * 2**30), progress)

    def fit_epoch(self, prepared: Sequence[Prepared], earlier: Sequence[EpochLoss] = ()) -> float:
        """One pass in a random order that depends on the seed and the number of `earlier` epochs only."""
        rng = np.random.default_rng([self.config.seed, len(earlier)])
        told = f", held out {earlier[-1].held_out:.3f}" if earlier else ""
        torch.manual_seed(int(rng.integers(2**31)))
        self.plug.train()
        total, count = 0.0, 0
        for batch in batches(prepared, self.config.batch_size, rng):
            loss = self.losses(batch, rng).mean()
            self.state.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.plug.parameters(), 1.0)
            self.state.optimizer.step()
            self.state.schedule.step()
            self.state.step += 1
            total, count = total + loss.item() * len(batch), count + len(batch)
            self.progress(f"steps, loss {total / count:.3f}{told}", self.state.step, self.steps)
        return total / count

    @torch.no_grad()
    def loss_of(self, prepared: Sequence[Prepared]) -> float:
        """Mean loss with the full history and without dropout."""
        self.plug.eval()
        losses = [self.losses(batch, None) for batch in batches(prepared, self.config.batch_size, None)]
        return torch.cat(losses).mean().item()

    def losses(self, batch: Sequence[Prepared], rng: np.random.Generator | None) -> Tensor:
        """(B,) negative mean log-probability of each target's tokens."""
        histories = [
            item.example.history if rng is None else drop_history(item.example.history, self.config, rng)
            for item in batch
        ]
        task = torch.from_numpy(np.stack([item.example.task for item in batch]))
        soft, _ = self.plug(
            task, *pad_histories([History.of_items(one) for one in histories], self.plug.config.encoder_width)
        )
        prefixes = self.cache.prefixes([item.parts.before for item in batch])
        return -self.llm.answer_log_probs(
            [item.parts for item in batch], soft, [item.answer for item in batch], prefixes
        )


def learning_rate_share(step: int, steps: int) -> float:
    """Linear warm-up over the first 5% of the steps (the paper's ratio), then a cosine down to 0."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
