"""Start `pplug`, or say which package of the same name as one of ours was imported in its place.

The wheel installs this file alone, beside the packages, as `pplug_command.py`: a folder on PYTHONPATH with a package
`pipelines` of its own hides ours with everything in it, so nothing of ours may be needed to say so.
"""

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("pipelines", "embedder", "llm_jobs")


def main() -> int:
    """Run a command and return its exit code."""
    for name in PACKAGES:
        folder = imported_folder(name)
        if folder is not None and not all((folder.parent / other).is_dir() for other in PACKAGES):
            sys.stderr.write(
                f"Python finds another package {name} in {folder} before that of pplug: take {folder.parent} out of"
                " PYTHONPATH, or run pplug from another folder\n"
            )
            return 1
    from pipelines.cli import main as run

    return run()


def imported_folder(name: str) -> Path | None:
    """The folder that a package of this name is imported from; None for one without files or that is not there."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None
