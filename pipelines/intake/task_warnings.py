"""Count what is odd with tasks that are taken all the same, and say so without their texts."""

import logging
import re
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from llm_jobs.kinds import Kind
from llm_jobs.labels import spelled_as
from pipelines.intake.columns import compute

logger = logging.getLogger(__name__)


@dataclass
class TaskWarnings:
    """How many tasks have no marker of their kind, or a reference that is not spelled as one of their choices."""

    kinds: Container[str]
    without_marker: Counter[str] = field(default_factory=Counter[str])
    """Tasks of each kind whose input lacks the kind's marker, or has nothing behind it."""
    respelled: int = 0  # references that name a choice in another spelling, and were given its own
    foreign: int = 0  # references that name no choice: no answer can be right

    def checked(self, tasks: pa.Table) -> pa.Table:
        """Count what is odd; returns the tasks, each reference in the spelling of the choice that it names."""
        for name in compute("unique", tasks["kind"]).to_pylist():
            kind = self._kind(name)
            if kind is not None and kind.query_marker:
                inputs = tasks.filter(compute("equal", tasks["kind"], pa.scalar(name)))["input"]
                marker = pc.MatchSubstringOptions("(?s)" + re.escape(kind.query_marker) + r".*\S")
                has_marker = pc.call_function("match_substring_regex", [inputs], marker)  # null for a deletion
                self.without_marker[name] += compute("sum", compute("invert", has_marker)).as_py() or 0
        choices, references = tasks["choices"].to_pylist(), tasks["reference"].to_pylist()
        spelled = [reference and spelled_as(reference, own) for reference, own in zip(references, choices, strict=True)]
        self.respelled += sum(new != old for new, old in zip(spelled, references, strict=True))
        self.foreign += sum(bool(new and own and new not in own) for new, own in zip(spelled, choices, strict=True))
        at = tasks.schema.get_field_index("reference")
        return tasks.set_column(at, tasks.schema.field(at), pa.array(spelled, pa.string()))

    def log(self) -> None:
        for name, count in self.without_marker.items():
            if count and (kind := self._kind(name)):
                how = f"`{kind.lamp_prompt or '...'} ... {kind.query_marker} {{text}}`"
                if kind.prompt is not None:
                    how = f"`{kind.prompt}`, or leave `input` out and bring `text`, to which pplug writes that prompt"
                told = "%d tasks of %s have an input without %r and a text behind it, so that all of it counts as text"
                logger.warning(f"{told}: write %s", count, name, kind.query_marker, how)
        if self.respelled:
            told = "%d references name a choice in another spelling (case, space or a number's zeros) and count as that"
            logger.warning(told, self.respelled)
        if self.foreign:
            told = "%d references are none of their task's choices, so no answer can be right: correct them"
            logger.warning(told, self.foreign)

    def _kind(self, name: str) -> Kind | None:
        kind = self.kinds.get(name) if isinstance(self.kinds, Mapping) else None
        return kind if isinstance(kind, Kind) else None
