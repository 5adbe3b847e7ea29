"""Train a plug on items in memory: the functions that `pplug train` calls, without a warehouse."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedder.errors import UsageError
from embedder.hashing import hash_share
from embedder.plug import PersonaPlug
from llm_jobs.kinds import Kind
from llm_jobs.prompts import Placement
from llm_jobs.training.data import TrainConfig
from llm_jobs.training.fit import guessing_loss, prepare, seeded_plug, train_plug
from pipelines.answers.models import Models, trainable
from pipelines.examples import ChoiceLists, Row, Target, examples_of, history_targets, task_targets
from pipelines.library.rows import NIGHT
from pipelines.library.saved import report_of
from pipelines.nights.runs import Progress
from pipelines.train import plug_config, warn_of_failure
from pipelines.training_data import TrainingData, tell_of_labels


def data_of(items: Sequence[Row], tasks: Sequence[Row], kind: Kind, limit: int | None) -> TrainingData:
    """Choose what a plug learns from: items with an output, and tasks with a reference.

    Args:
        items: by user, the oldest first.
        tasks: with references, or none.
        kind: of the plug.
        limit: most examples; all unless given.

    Raises:
        UsageError: if there is none.
    """
    lists = ChoiceLists(tasks, kind)
    targets = history_targets(items, kind, lists, set())
    found = limited([*targets.found, *task_targets(tasks, kind, {NIGHT})], limit)
    if not found and kind.prompt is None:
        raise UsageError(f"kind {kind.name} learns from tasks: pass fit(..., tasks=...) with a column reference")
    if not found:
        raise UsageError(
            f"no item of kind {kind.name} has an output to learn from: name the column, output, in columns="
        )
    choices = () if lists.differ and len(lists.labels or ()) > len(found) else lists.labels
    return TrainingData(kind, items, replace(targets, found=found), choices)


def limited(found: Sequence[Target], limit: int | None) -> list[Target]:
    """At most `limit` targets of all users alike, chosen by a hash: the same ones in every run."""
    if limit is not None and limit < 1:
        raise UsageError(f"limit = {limit} leaves nothing to learn from: leave it out, or take some hundreds")
    chosen = sorted(range(len(found)), key=lambda at: hash_share(f"limit {found[at].key}"))[:limit]
    return [found[at] for at in sorted(chosen)]


def fitted(
    data: TrainingData, kinds: Mapping[str, Kind], models: Models, train: TrainConfig, progress: Progress
) -> tuple[PersonaPlug, Mapping[str, Any]]:
    """Train a plug; with it comes what `training.json` says of the training.

    Args:
        data: what it learns from.
        kinds: how items of each kind become text.
        models: the two frozen models.
        train: how it is trained.
        progress: told of the steps done.
    """
    tell_of_labels(data)
    llm = trainable(models.llm)
    examples = examples_of(data.targets.found, data.items, kinds, models.encoder)
    plug = seeded_plug(plug_config(data.kind, models, labels=data.labels), train.seed)
    prepared = prepare(examples, llm, Placement(plug.config.placement))
    names = models.encoder.encode(data.labels) if plug.config.labels else None
    with tempfile.TemporaryDirectory(prefix="pplug-") as folder:
        losses = train_plug(plug, llm, prepared, train, Path(folder), progress, names)
        report = report_of(Path(folder))
    if plug.config.labels:
        warn_of_failure(losses, guessing_loss(data.labels))
    return plug, {**report, "user_count": data.user_count}
