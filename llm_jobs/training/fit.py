"""Train a plug: whatever its head is made of, stage after stage.

    examples ─▶ prepare ─▶ train_plug ─▶ stages of the head ─┬─▶ text, scorers   (labels.py, no LLM)
                                                             └─▶ llm             (through_llm.py)

A stage fits some of the weights in place. Stages that stop by the loss on held-out users see the other users only;
where none does, that loss is told of a first fit and the plug is then fitted to everybody.
"""

import logging
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import torch

from embedder.compact import FloatArray
from embedder.errors import PplugError
from embedder.plug import PersonaPlug
from embedder.plug_config import PlugConfig
from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.prompts import Placement, PromptRefused
from llm_jobs.training import save_report
from llm_jobs.training.checkpoint import EpochLoss
from llm_jobs.training.data import Example, Tokenised, TrainConfig, split_users
from llm_jobs.training.labels import fit_scorers, fit_text
from llm_jobs.training.prefix_cache import Progress
from llm_jobs.training.through_llm import fit_through_llm
from llm_jobs.training.training import Training, with_values

logger = logging.getLogger(__name__)

SOFT_ROOM: Final = 16
"""Tokens that are left for the soft prompt."""

STAGES: Final[Mapping[str, Callable[[Training], list[EpochLoss]]]] = {
    "text": fit_text,
    "scorers": fit_scorers,
    "llm": fit_through_llm,
}
"""What fits the weights of a stage that a head names."""


def train_plug(
    plug: PersonaPlug,
    llm: FrozenLLM,
    prepared: Sequence[Tokenised],
    config: TrainConfig,
    folder: Path,
    progress: Progress,
    names: FloatArray | None = None,
) -> list[EpochLoss]:
    """Fit `plug` in place to examples that `prepare` made, and save it in `folder`; return the losses of each epoch.

    Those before a resume are among them; a plug with labels has one.

    Args:
        plug: with its start weights.
        llm: the frozen LLM.
        prepared: the examples.
        config: how it is trained.
        folder: where plug, report and, meanwhile, checkpoints go.
        progress: told of the steps done.
        names: (L, D) encoded names of the plug's labels, where it has any.

    Raises:
        PplugError: if there is nothing to train on.
    """
    if plug.config.values_width:
        prepared = with_values(llm, prepared, progress)  # once for all stages
    train, held_out = split_users(prepared, config.held_out)
    if not train:
        raise PplugError("no example to train on: ingest histories with an `output`, or name a night with --tasks")
    training = Training(plug, llm, config, folder, progress, train, held_out, names)
    start = {name: value.clone() for name, value in plug.state_dict().items()}
    losses = run_stages(training)
    if held_out and not plug.head.STOPS_EARLY:
        plug.load_state_dict(start)
        run_stages(training := replace(training, train=list(prepared), held_out=[]))
    plug.eval().save_pretrained(folder)
    write_report(folder, config, losses, len(training.train))
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return losses


def run_stages(training: Training) -> list[EpochLoss]:
    """Fit the plug in the stages that its head names."""
    return [loss for name in training.plug.head.STAGES for loss in STAGES[name](training)]


def prepare(examples: Sequence[Example], llm: FrozenLLM, placement: Placement) -> list[Tokenised]:
    """Tokenise prompts and targets; prompts too long for the LLM lose the middle of their input, told in a warning.

    Examples that the LLM cannot take, as their target alone fills its context, are left out and counted in a warning.
    """
    prepared, refused = list[Tokenised](), list[str]()
    for example in examples:
        answer = llm.answer_ids(example.target)
        try:
            parts = llm.parts(example.prompt, placement, len(answer) + SOFT_ROOM, example.turns)
        except PromptRefused as error:
            refused.append(error.refusal.reason)
        else:
            prepared.append(Tokenised(example, parts, answer))
    tell_of_skipped(refused, len(examples))
    if count := shortened_count(prepared):
        told = "%d of %d prompts lost their middle to fit the %d tokens that the LLM reads"
        logger.warning(told, count, len(prepared), llm.context_length)
    return prepared


def shortened_count(prepared: Sequence[Tokenised]) -> int:
    """Examples whose prompt lost its middle."""
    return sum(item.parts.is_shortened for item in prepared)


def tell_of_skipped(reasons: Iterable[str], count: int) -> None:
    """Warn of examples that are left out: how many, and why; whose they are is not for logs."""
    for reason, skipped in sorted(Counter(reasons).items()):
        told = "%d of %d examples are skipped (%s): their answers fill the LLM's context"
        logger.warning(told, skipped, count, reason)


def guessing_loss(labels: Sequence[str]) -> float:
    """Loss of a label, as in `EpochLoss`, of answering any of the labels with equal probability."""
    return math.log(len(labels))


def write_report(folder: Path, config: TrainConfig, losses: Sequence[EpochLoss], example_count: int) -> None:
    """Leave beside the plug how it was trained."""
    report = {
        "settings": asdict(config),
        "losses": [asdict(loss) for loss in losses],
        "example_count": example_count,
    }
    save_report(folder, report)


def seeded_plug(config: PlugConfig, seed: int) -> PersonaPlug:
    """A new plug whose start weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PersonaPlug(config)
