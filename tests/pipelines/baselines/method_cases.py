"""Cases made by hand."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from embedder.histories import History
from llm_jobs.answers import PersonalTask
from pipelines.answers.queue import QueuedTask
from pipelines.baselines.cases import Case, Item
from pipelines.personas.stored import Persona

CHOICES = ("red", "blue", "green")
START = datetime(2026, 1, 1, tzinfo=UTC)


def unit(*numbers: float) -> np.ndarray:
    vector = np.array(numbers, np.float32)
    return vector / np.linalg.norm(vector)


def item(number: int, text: str, output: str | None = None, vector: Sequence[float] = (1.0, 0.0)) -> Item:
    return Item(f"i{number:03}", START + timedelta(days=number), text, output, unit(*vector))


def case(
    items: Sequence[Item],
    text: str = "note: apples",
    task: Sequence[float] = (1.0, 0.0),
    choices: tuple[str, ...] | None = CHOICES,
) -> Case:
    queued = QueuedTask("t", "ann", "note", text, choices, "red", Persona(History.empty(2), []))
    asked = text.partition("note:")[2].strip() or text
    personal = PersonalTask(text, unit(*task), History.empty(2), choices, 4, query=asked)
    return Case(queued, personal, items, len(items), [])
