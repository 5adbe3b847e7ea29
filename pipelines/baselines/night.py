"""The tasks of one kind and night that are compared, and the rows of `evaluations` that come of their answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb

from embedder.errors import InputMissing, UsageError
from llm_jobs.kinds import Kind, Metric
from pipelines.answers.models import GenerateConfig, Models, load_models
from pipelines.baselines.answering import Arm
from pipelines.baselines.authorship import with_authorship
from pipelines.baselines.cases import CaseReader
from pipelines.baselines.table import comparison_rows
from pipelines.evaluate import labels_of
from pipelines.nights.precisions import with_precisions
from pipelines.nights.runs import RunRecord
from pipelines.slices import slices_of
from pipelines.tables import Row
from pipelines.tables.warehouse import Warehouse
from pipelines.training_data import PlugChoice, TrainingData, training_data


@dataclass(frozen=True, eq=False)
class NightOfKind:
    """One kind of task of one night.

    Raises:
        InputMissing: if it has no task with a reference.
    """

    warehouse: Warehouse
    ds: date
    kinds: Mapping[str, Kind]
    kind: Kind
    models: Models
    tasks: Sequence[Row]
    """Its tasks that have a reference."""

    def __post_init__(self) -> None:
        if not self.tasks:
            told = f"no task of kind {self.kind.name} on {self.ds} has a reference"
            raise InputMissing(f"{told}: run `pplug ingest tasks FILE --ds {self.ds}`")

    def reader(
        self, db: duckdb.DuckDBPyConnection, tasks: Sequence[Row] | None = None, *, with_texts: bool = False
    ) -> CaseReader:
        """Reads all tasks, or some; `with_texts` for plugs of earlier turns."""
        scored = self.tasks if tasks is None else tasks
        return CaseReader(db, self.ds, self.kind, self.models.encoder, scored, with_texts=with_texts)

    def data(self, persona_ds: date, limit: int | None = None) -> TrainingData:
        """What trained methods are fitted to: histories up to the night that personas were made of."""
        return training_data(self.warehouse, PlugChoice(self.kind.name, persona_ds, limit=limit), self.kinds)

    def members(
        self, item_counts: Mapping[str, int], more: Callable[[Row], Iterable[str]] = lambda _: ()
    ) -> dict[str, list[str]]:
        """The tasks of each slice: all, by the length of the history, and in what `more` gives of a task."""
        members: dict[str, list[str]] = {}
        for row in self.tasks:
            for name in (*slices_of(item_counts.get(row["user_id"], 0)), *more(row)):
                members.setdefault(name, []).append(row["task_id"])
        return members

    def rows(
        self, arms: Mapping[str, Arm], members: Mapping[str, Sequence[str]], data: TrainingData
    ) -> list[dict[str, Any]]:
        """Rows of `evaluations`, apart from the run."""
        if self.kind.metric is Metric.ROUGE:
            arms = with_authorship(arms, "other", data.outputs)
        return comparison_rows(self.kind, arms, members, labels_of(self.tasks, self.kinds)[self.kind.name])


def compared_models(warehouse: Warehouse, config: GenerateConfig, record: RunRecord | None = None) -> Models:
    """Load the models of a comparison, in precisions that the record keeps.

    Raises:
        UsageError: of an engine that cannot count the tokens of retrieved items, or be adapted.
    """
    if config.engine != "transformers":
        raise UsageError(f"--compare cannot use the engine {config.engine}: leave --engine out")
    return load_models(with_precisions(warehouse, config, record))
