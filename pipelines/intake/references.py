"""Count the references that are not spelled like one of their task's choices, and warn of them."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llm_jobs.labels import label_text
from pipelines.intake.rows import Refusal, Row

logger = logging.getLogger(__name__)


@dataclass
class ReferenceCounts:
    """How the references of closed tasks fit their choices."""

    respelled: int = 0
    """Name a choice in another spelling, and were given its own."""
    foreign: int = 0
    """Name no choice: no answer can be right."""

    def counting(self, parse: Callable[[object], Row | Refusal]) -> Callable[[object], Row | Refusal]:
        """The same parser of tasks, with its rows counted."""

        def counted(record: object) -> Row | Refusal:
            row = parse(record)
            if isinstance(record, Mapping) and not isinstance(row, Refusal):
                self.count(record.get("reference"), row)
            return row

        return counted

    def count(self, given: object, row: Mapping[str, Any]) -> None:
        """Count a task as it was parsed, whose reference was `given`."""
        reference, choices = row["reference"], row["choices"]
        if reference is not None and choices:
            self.foreign += reference not in choices
            self.respelled += reference != label_text(given)

    def warn(self) -> None:
        """Say what was counted, without the texts."""
        if self.respelled:
            told = "%d references name a choice in another spelling (case, space or a number's zeros) and count as that"
            logger.warning(told, self.respelled)
        if self.foreign:
            told = "%d references are none of their task's choices, so no answer can be right: correct them"
            logger.warning(told, self.foreign)
