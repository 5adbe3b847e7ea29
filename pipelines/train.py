"""Train a plug from the warehouse: examples from histories and named nights, through the frozen LLM.

histories ─▶ targets, each with the items before it ─┐
tasks of the nights named ───────────────────────────┴─▶ examples ─▶ train_plug ─▶ folder of the plug

A plug of earlier turns has nothing to train: it is saved as it is.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embedder.errors import UsageError
from embedder.fingerprints import fingerprint
from embedder.plug import PersonaPlug
from embedder.plug_config import DEFAULT_TURNS, PUBLISHED, TURNS, PlugConfig
from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.kinds import Kind, Metric
from llm_jobs.prompts import Answer, Placement, Request
from llm_jobs.training import read_report, save_report
from llm_jobs.training.checkpoint import EpochLoss
from llm_jobs.training.data import Example, Tokenised, TrainConfig, split_users
from llm_jobs.training.fit import guessing_loss, prepare, seeded_plug, shortened_count, train_plug
from llm_jobs.training.through_llm import TrainingRun, work_tokens
from pipelines.answers.models import GenerateConfig, Models, load_models, trainable
from pipelines.erasure.user_key import made_key
from pipelines.examples import examples_of
from pipelines.nights.plans import Plan, estimated_seconds
from pipelines.nights.precisions import with_precisions
from pipelines.nights.runs import Progress, RunRecord, no_progress, recorded_run
from pipelines.tables.warehouse import Warehouse
from pipelines.training_data import PlugChoice, TrainingData, tell_of_labels, training_data
from pipelines.verdicts.trained import what_data_allow

logger = logging.getLogger(__name__)

JOB = "train"

LABEL_SECONDS, LABEL_SECONDS_PER_EXAMPLE = 20.0, 0.03
"""A plug with labels, encoding included, on one core (docs/experiments.md, 2026-11-28)."""


@dataclass(frozen=True)
class TrainResult:
    """How training went."""

    record: RunRecord
    kind: str
    example_count: int
    skipped_leak_count: int
    skipped_long_count: int
    """Examples that the LLM cannot take."""
    losses: Sequence[EpochLoss]
    """None of a plug without weights."""
    held_out_users: int = 0
    """Users whose examples only measured; without any, `EpochLoss.held_out` repeats the loss of training."""
    loss_without_plug: float | None = None
    """On the examples of these users."""
    loss_without_history: float | None = None
    """Of the plug on the same examples as if these users had no history; None for a plug that points."""
    is_closed: bool = False
    """The plug points at labels."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The losses as they are printed; null where nobody was held out."""
        held_out = bool(self.held_out_users)
        without, new = self.loss_without_plug, self.loss_without_history
        return [
            asdict(loss)
            | {"held_out": loss.held_out if held_out else None, "without_plug": without, "without_history": new}
            for loss in self.losses
        ]

    @property
    def facts(self) -> dict[str, Any]:
        """What the run record says of it."""
        return {
            "kind": self.kind,
            "skipped_long_count": self.skipped_long_count,
            "held_out_user_count": self.held_out_users,
            "held_out_loss": min(loss.held_out for loss in self.losses) if self.held_out_users else None,
            "loss_without_plug": self.loss_without_plug,
            "loss_without_history": self.loss_without_history,
        }


def train_job(
    warehouse: Warehouse,
    folder: Path,
    choice: PlugChoice,
    config: GenerateConfig,
    train: TrainConfig,
    kinds: Mapping[str, Kind],
    *,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train a plug for one kind of task and save it in `folder`.

    Args:
        warehouse: read; only `runs` is written.
        folder: where the plug goes, and its checkpoints until it is done.
        choice: which plug, on what and on whom.
        config: which models the plug is for.
        train: how it is trained.
        kinds: how items and tasks of each kind read.
        progress: told of the steps done.
    """
    settings = asdict(config) | asdict(train) | asdict(choice)
    with recorded_run(warehouse, JOB, choice.until, settings) as record:
        start = time.perf_counter()
        data = training_data(warehouse, choice, kinds)
        tell_of_labels(data)
        if choice.aggregation != TURNS:
            logger.info(what_data_allow(len(data.targets.found), data.user_count, is_closed=bool(data.labels)))
        config = with_precisions(warehouse, config, record)
        models = load_models(config)
        fitted = fit_plug(data, kinds, models, train, folder, progress, choice.aggregation, choice.turns)
        plug, prepared, _ = fitted
        result = measured(record, data, fitted, trainable(models.llm), train)
        seconds = round(time.perf_counter() - start, 1)
        add_to_report(folder, seconds=seconds, **hashed_users(warehouse, trained_on(plug, prepared, train)))
        record.rows_in = record.rows_out = result.example_count
        record.tokens = work_tokens(prepared, plug.config, train.epochs)
        counts = {"user_count": data.user_count, "shortened_count": shortened_count(prepared)}
        record.config = {**record.config, **result.facts, **counts, "plug_sha256": fingerprint(folder)}
    return result


class Fitted(NamedTuple):
    """A plug, the examples it was trained with, and the losses of each epoch."""

    plug: PersonaPlug
    prepared: Sequence[Tokenised]
    losses: Sequence[EpochLoss]


def fit_plug(
    data: TrainingData,
    kinds: Mapping[str, Kind],
    models: Models,
    train: TrainConfig,
    folder: Path,
    progress: Progress,
    aggregation: str = "attention",
    turns: int | None = None,
) -> Fitted:
    """Encode the examples and train a plug, saved in `folder`; a warning tells of one that is worse than guessing."""
    llm = trainable(models.llm)
    require_free(data, aggregation)
    plug = seeded_plug(plug_config(data.kind, models, aggregation, data.labels, turns), train.seed)
    if not plug.head.STAGES:
        plug.save_pretrained(folder)
        save_report(folder, {"losses": [], "example_count": 0})
        return Fitted(plug, [], [])
    examples = examples_of(data.targets.found, data.items, kinds, models.encoder)
    prepared = prepare(examples, llm, Placement(plug.config.placement))
    names = models.encoder.encode(data.labels) if plug.config.labels else None
    losses = train_plug(plug, llm, prepared, train, folder, progress, names)
    if plug.config.labels:
        warn_of_failure(losses, guessing_loss(data.labels))
    return Fitted(plug, prepared, losses)


def measured(record: RunRecord, data: TrainingData, fitted: Fitted, llm: FrozenLLM, train: TrainConfig) -> TrainResult:
    """Measure the examples of held-out users without the plug, too, and say how training went."""
    plug, prepared, losses = fitted
    held_out, is_closed = split_users(prepared, train.held_out)[1], bool(plug.config.labels)
    without = loss_without_plug(llm, held_out, is_closed=is_closed)
    new = None if is_closed else loss_without_history(plug, llm, held_out, train)
    users = len({item.example.user_id for item in held_out})
    too_long = len(data.targets.found) - len(prepared) if plug.head.STAGES else 0
    skipped = data.targets.skipped_leak_count, too_long
    return TrainResult(record, data.kind.name, len(prepared), *skipped, losses, users, without, new, is_closed)


SAMPLE = 200
"""Examples that the losses without a plug and without a history are measured on, at most."""


def sample_of(held_out: Sequence[Tokenised]) -> Sequence[Tokenised]:
    """All of them, or every nth."""
    return held_out[:: max(1, -(-len(held_out) // SAMPLE))]


def loss_without_history(
    plug: PersonaPlug, llm: FrozenLLM, held_out: Sequence[Tokenised], train: TrainConfig
) -> float | None:
    """The loss, as in `EpochLoss`, of a plug as new users meet it."""
    if not held_out:
        return None
    asked = [(item, replace(item.example, history=item.example.history[:0])) for item in sample_of(held_out)]
    run = TrainingRun(plug, llm, train, [], no_progress)
    return run.loss_of([replace(item, example=example) for item, example in asked])


def loss_without_plug(llm: FrozenLLM, held_out: Sequence[Tokenised], *, is_closed: bool) -> float | None:
    """The loss, as in `EpochLoss`, without a plug: of the LLM alone, or of guessing labels as often as each occurs."""
    if not held_out:
        return None
    if is_closed:
        counts = Counter(item.example.target for item in held_out)
        return -sum(count * math.log(count / len(held_out)) for count in counts.values()) / len(held_out)
    sample = sample_of(held_out)
    requests = [Request(item.example.prompt, None, (item.example.target,), 1) for item in sample]
    answers = llm.answer(requests, Placement.AFTER)
    scores = [answer.score for answer in answers if isinstance(answer, Answer)]
    return -sum(scores) / len(scores) if scores else None


def warn_of_failure(losses: Sequence[EpochLoss], guessing: float) -> None:
    """Say so if the best epoch is worse than guessing: the plug is saved, but nobody should answer with it."""
    best = min(loss.held_out for loss in losses)
    if best > guessing:
        told = f"loss on held-out users {best:.3f}, of guessing among the labels {guessing:.3f}"
        logger.warning("the training never got going (%s): train again with another --seed or more --epochs", told)


def plan_train(
    warehouse: Warehouse,
    folder: Path,
    choice: PlugChoice,
    config: GenerateConfig,
    train: TrainConfig,
    kinds: Mapping[str, Kind],
) -> Plan:
    """What `train_job` would do; nothing is written."""
    del folder  # the same arguments as train_job
    data = training_data(warehouse, choice, kinds)
    models = load_models(with_precisions(warehouse, config))
    llm = trainable(models.llm)
    require_free(data, choice.aggregation)
    plug = seeded_plug(plug_config(data.kind, models, choice.aggregation, data.labels, choice.turns), train.seed)
    if not plug.head.STAGES:
        return Plan(JOB, choice.until, 0, 0, 0, 0, 0.0)
    nothing = np.zeros((1, models.encoder.width), np.float32)
    examples = [
        Example(target.user_id, target.prompt, target.target, nothing[0], nothing) for target in data.targets.found
    ]
    prepared = prepare(examples, llm, Placement(plug.config.placement))
    sample, once = prepared[: train.batch_size], replace(train, epochs=1)
    tokens = work_tokens(prepared, plug.config, train.epochs)

    def fit_sample() -> None:
        run = TrainingRun(plug, llm, once, sample, no_progress)
        run.fit_epoch(sample)

    texts = {target.query for target in data.targets.found}
    seconds = LABEL_SECONDS + len(prepared) * LABEL_SECONDS_PER_EXAMPLE
    if not plug.config.labels:
        sampled = (fit_sample, work_tokens(sample, plug.config, 1))
        seconds = estimated_seconds(warehouse, JOB, len(prepared), tokens, *sampled)
    return Plan(JOB, choice.until, data.user_count, len(prepared), len(texts), tokens, seconds)


def trained_on(plug: PersonaPlug, prepared: Sequence[Tokenised], train: TrainConfig) -> Sequence[Tokenised]:
    """The examples that weights were fitted to: all of them, unless training stopped by those of held-out users.

    None of a plug without weights.
    """
    if not plug.head.STAGES:
        return []
    return split_users(prepared, train.held_out)[0] if plug.head.STOPS_EARLY else prepared


def hashed_users(warehouse: Warehouse, examples: Sequence[Tokenised]) -> dict[str, Any]:
    """Whose histories a plug was fitted to, as hashes under the warehouse's key."""
    key = made_key(warehouse)
    hashes = {key.hash(item.example.user_id) for item in examples}
    return {"user_hmac_sha256": sorted(hashes), "key_check": key.check}


def add_to_report(folder: Path, **facts: Any) -> None:
    """Add to training.json what the job knows and training does not.

    `seconds`: time of the run that ended it, encoding included.
    `user_hmac_sha256` and `key_check`: see `hashed_users`.
    """
    save_report(folder, {**facts, **read_report(folder)})


def require_free(data: TrainingData, aggregation: str) -> None:
    """Refuse earlier turns for a closed kind, whose plug points at labels by far more items."""
    if aggregation == TURNS and (data.labels or data.kind.metric is not Metric.ROUGE):
        told = f"--aggregation {TURNS} is for free answers, and kind {data.kind.name} is closed"
        raise UsageError(f"{told}: leave it out, and the plug points at the labels")


def plug_config(
    kind: Kind,
    models: Models,
    aggregation: str = "attention",
    labels: tuple[str, ...] = (),
    turns: int | None = None,
) -> PlugConfig:
    """The shape of a plug between the two models."""
    llm = trainable(models.llm)
    scored = labels if aggregation == "attention" else ()
    as_published: dict[str, Any] = {"placement": "before", "instruction_count": 1, "persona_count": 1}
    return PlugConfig(
        kinds=(kind.name,),
        encoder_sha256=models.encoder.sha256,
        llm_sha256=llm.sha256,
        encoder_width=models.encoder.width,
        llm_width=llm.width,
        embedding_norm=llm.embedding_norm,
        aggregation=aggregation,
        labels=scored,
        values_width=llm.values_width if kind.sees_llm_values and scored else 0,
        turns=(turns or DEFAULT_TURNS) if aggregation == TURNS else 0,
        **(as_published if aggregation == PUBLISHED else {}),
    )
