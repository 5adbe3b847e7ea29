"""Training a plug through the frozen LLM: examples, the loop, what is kept between epochs, checkpoints."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

REPORT: Final = "training.json"
"""What training leaves in a plug's folder beside the plug: settings, losses and, as hashes, whose histories it saw."""


def read_report(folder: Path) -> Mapping[str, Any]:
    """How the plug in a folder was trained; nothing where that is not known."""
    path = folder / REPORT
    return json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}


def save_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Leave beside a plug how it was trained."""
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf8")
