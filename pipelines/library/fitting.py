"""Train a plug on items in memory: the functions that `pplug train` calls, without a warehouse."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedder.errors import UsageError
from embedder.plug import PersonaPlug
from llm_jobs.kinds import Kind
from llm_jobs.training import read_report
from llm_jobs.training.data import TrainConfig
from pipelines.answers.models import Models
from pipelines.library.rows import NIGHT
from pipelines.nights.runs import Progress
from pipelines.tables import Row
from pipelines.train import fit_plug
from pipelines.training_data import TrainingData, data_of, tell_of_labels


def chosen_data(items: Sequence[Row], tasks: Sequence[Row], kind: Kind, limit: int | None) -> TrainingData:
    """Choose what a plug learns from: items with an output, and tasks with a reference.

    Args:
        items: by user, the oldest first.
        tasks: with references, or none.
        kind: of the plug.
        limit: most examples, in turn one of each user; all unless given.

    Raises:
        UsageError: if there is none.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit = {limit} leaves nothing to learn from: leave it out, or take some hundreds")
    data = data_of(items, tasks, kind, {NIGHT}, limit)
    if not data.targets.found and kind.prompt is None:
        raise UsageError(f"kind {kind.name} learns from tasks: pass fit(..., tasks=...) with a column reference")
    if not data.targets.found:
        raise UsageError(
            f"no item of kind {kind.name} has an output to learn from: name the column, output, in columns="
        )
    return data


def fitted(
    data: TrainingData,
    kinds: Mapping[str, Kind],
    models: Models,
    train: TrainConfig,
    progress: Progress,
    aggregation: str = "attention",
) -> tuple[PersonaPlug, Mapping[str, Any]]:
    """Train a plug; with it comes what `training.json` says of the training.

    Args:
        data: what it learns from.
        kinds: how items of each kind become text.
        models: the two frozen models.
        train: how it is trained.
        progress: told of the steps done.
        aggregation: what the plug sees of a history.
    """
    tell_of_labels(data)
    with tempfile.TemporaryDirectory(prefix="pplug-") as folder:
        plug = fit_plug(data, kinds, models, train, Path(folder), progress, aggregation).plug
        report = read_report(Path(folder))
    return plug, {**report, "user_count": data.user_count}
