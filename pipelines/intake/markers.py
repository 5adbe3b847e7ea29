"""Count the tasks whose input lacks its kind's marker, and say how it is worded."""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llm_jobs.kinds import Kind
from pipelines.intake.found import compute

logger = logging.getLogger(__name__)


@dataclass
class MarkerCounts:
    """How many tasks of each kind have no marker, or nothing behind it."""

    lacking: Counter[str] = field(default_factory=Counter[str])

    def count(self, tasks: pa.Table, kinds: Any) -> None:
        """Look through the inputs of tasks; deletions have none."""
        if not isinstance(kinds, Mapping):
            return
        for name in compute("unique", tasks["kind"]).to_pylist():
            kind = kinds.get(name)
            if isinstance(kind, Kind) and kind.query_marker:
                inputs = tasks.filter(compute("equal", tasks["kind"], pa.scalar(name)))["input"]
                pattern = "(?s)" + re.escape(kind.query_marker) + r".*\S"
                found = pc.call_function("match_substring_regex", [inputs], pc.MatchSubstringOptions(pattern))
                self.lacking[name] += compute("sum", compute("invert", found)).as_py() or 0

    def warn(self, kinds: Any) -> None:
        """Say what was counted and how an input is worded, without the texts."""
        for name, count in self.lacking.items():
            if count:
                kind: Kind = kinds[name]
                told = (
                    "%d tasks of %s have an input without %r and a text behind it, so that all of it counts as text: %s"
                )
                logger.warning(told, count, name, kind.query_marker, _wording(kind))


def _wording(kind: Kind) -> str:
    """How the input of a kind shall read."""
    if kind.prompt is not None:
        return f"write `{kind.prompt}`, or leave `input` out and bring `text`, to which pplug writes that prompt"
    return f"write `{kind.lamp_prompt or '...'} ... {kind.query_marker} {{text}}`"
