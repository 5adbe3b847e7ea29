"""The whole job on a generated sample, with the real models, in one folder.

    write_sample ─▶ ingest ─▶ train ─▶ encode ─▶ generate ─▶ evaluate with controls ─▶ a query, a report

The functions are those that the commands call.
"""

import logging
from datetime import timedelta
from pathlib import Path

from embedder.errors import UsageError
from llm_jobs.kinds import load_kinds
from llm_jobs.training.data import TrainConfig
from pipelines.answers.models import GenerateConfig
from pipelines.command.tables import rows_of
from pipelines.encode import EncodeConfig, encode_job
from pipelines.evaluate import evaluate_night
from pipelines.generate import generate_job
from pipelines.ingest import ingest_histories, ingest_tasks
from pipelines.nights.night import run_night
from pipelines.nights.runs import Progress
from pipelines.report.night import night_numbers
from pipelines.report.page import render, write_page
from pipelines.sample import NEWS, NIGHT, SampleConfig, write_sample
from pipelines.tables import Row
from pipelines.tables.queries import run_query
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.train import train_job
from pipelines.training_data import PlugChoice

logger = logging.getLogger(__name__)

SAMPLE = SampleConfig()
TRAINING = TrainConfig(epochs=3, batch_size=8)
EXAMPLE_TASK = "user-01-task-1"  # a task whose text says nothing about its category

ARMS = {
    "own": "the user's own persona",
    "other": "the persona of another user, mean of five draws",
    "default": "the persona of users without a history",
    "none": "the language model alone",
}


def plan_demo(sample: SampleConfig = SAMPLE) -> Row:
    """How large the demo is; `seconds` of one processor, an AMD EPYC: two idle cores take less."""
    items = (sample.users - sample.users_without_history) * (sample.news + sample.headlines)
    tasks = sample.users * sample.tasks
    return {"user_count": sample.users, "item_count": items, "task_count": tasks, "seconds": 200}


def run_demo(
    folder: Path, progress: Progress, sample: SampleConfig = SAMPLE, training: TrainConfig = TRAINING
) -> tuple[list[Row], list[Row]]:
    """Run every step in a folder that is new, empty or that of an earlier demo, and log what was done.

    Returns:
        What the plug looked at for one task, rows of the query `top_items`, and the closing table.

    Raises:
        UsageError: if the folder holds something else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "sample").is_dir():
        raise UsageError(f"{folder} holds files that are no demo's: name a new folder, `pplug demo DIR`")
    warehouse, plug, kinds, models = Warehouse(folder / "warehouse"), folder / "plug", load_kinds(), GenerateConfig()
    histories, tasks = write_sample(folder / "sample", sample)
    items = ingest_histories(warehouse, [histories], NIGHT, kinds)
    queued = ingest_tasks(warehouse, [tasks], NIGHT, kinds)
    logger.info("ingested %d items and %d tasks from %s", items.rows_out, queued.rows_out, histories.parent)
    choice = PlugChoice(NEWS, until=NIGHT - timedelta(days=1))
    trained = train_job(warehouse, plug, choice, models, training, kinds, progress=progress)
    logger.info("trained %s on %d of the items", plug, trained.example_count)
    encoded = run_night(encode_job(EncodeConfig(), kinds), warehouse, NIGHT, progress)
    logger.info("encoded %d items into persona_vectors", encoded.rows_out)
    answered = run_night(generate_job([plug], models, kinds), warehouse, NIGHT, progress)
    logger.info("answered %d tasks into outputs, each for its own user", answered.rows_out)
    found = evaluate_night(warehouse, NIGHT, kinds, plugs=[plug], config=models, progress=progress)
    with connect(warehouse) as db:
        looked_at = list(rows_of(run_query(db, "top_items", {"task_id": EXAMPLE_TASK})))
        report = render(night_numbers(db, NIGHT, example_count=3))
    write_page(folder / "report.html", report)
    logger.info("open the night's report in a browser: %s", folder / "report.html")
    logger.info("look around: pplug sql 'show tables' --warehouse %s", warehouse.root)
    return looked_at, closing_table(list(rows_of(found)))


def closing_table(evaluations: list[Row]) -> list[Row]:
    """Accuracy with its 95% interval, in the order of `ARMS`."""
    accuracies = {row["arm"]: row for row in evaluations if row["metric"] == "accuracy"}
    return [
        {"answered with": meaning, "arm": arm} | {name: accuracies[arm][name] for name in ("value", "low", "high")}
        for arm, meaning in ARMS.items()
    ]
