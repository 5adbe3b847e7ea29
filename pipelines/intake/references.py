"""Give references the spelling of their task's choices, and count those that name none."""

import logging
from dataclasses import dataclass

import pyarrow as pa

from llm_jobs.labels import spelled_as

logger = logging.getLogger(__name__)


@dataclass
class ReferenceCounts:
    """How the references of closed tasks fit their choices."""

    respelled: int = 0
    """Name a choice in another spelling, and were given its own."""
    foreign: int = 0
    """Name no choice: no answer can be right."""

    def spelled(self, tasks: pa.Table) -> pa.Table:
        """The tasks, each reference in the spelling of the choice that it names."""
        choices, references = tasks["choices"].to_pylist(), tasks["reference"].to_pylist()
        spelled = [reference and spelled_as(reference, own) for reference, own in zip(references, choices, strict=True)]
        self.respelled += sum(new != old for new, old in zip(spelled, references, strict=True))
        self.foreign += sum(bool(new and own and new not in own) for new, own in zip(spelled, choices, strict=True))
        if spelled == references:
            return tasks
        at = tasks.schema.get_field_index("reference")
        return tasks.set_column(at, tasks.schema.field(at), pa.array(spelled, pa.string()))

    def warn(self) -> None:
        """Say what was counted, without the texts."""
        if self.respelled:
            told = "%d references name a choice in another spelling (case, space or a number's zeros) and count as that"
            logger.warning(told, self.respelled)
        if self.foreign:
            told = "%d references are none of their task's choices, so no answer can be right: correct them"
            logger.warning(told, self.foreign)
