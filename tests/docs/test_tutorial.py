"""docs/tutorial.ipynb runs from its first cell to its last, with the packaged models, and ends where it says."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"


def shown(page: Path) -> dict[str, str]:
    """What each cell of code showed, by its first line."""
    cells = [cell for cell in nbformat.read(page, as_version=4).cells if cell.cell_type == "code"]
    return {cell.source.splitlines()[-1]: "".join(_text(output) for output in cell.outputs) for cell in cells}


def _text(output: nbformat.NotebookNode) -> str:
    return output.text if output.output_type == "stream" else output.data["text/plain"]


def test_the_tutorial_ends_where_it_says(tmp_path: Path) -> None:
    """A process of its own: Jupyter's libraries warn of one another."""
    again = tmp_path / "again.ipynb"
    code = (
        "import sys, nbformat; from nbclient import NotebookClient\n"
        "book = nbformat.read(sys.argv[1], as_version=4)\n"
        "NotebookClient(book, timeout=600, resources={'metadata': {'path': sys.argv[3]}}).execute()\n"
        "nbformat.write(book, sys.argv[2])"
    )
    root = str(PAGE.parents[1])
    environment = os.environ | {"PYTHONPATH": root, "JUPYTER_PLATFORM_DIRS": "1", "IPYTHONDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, str(PAGE), str(again), str(PAGE.parent)], check=True, env=environment)
    kept, found = shown(PAGE), shown(again)
    assert found.keys() == kept.keys()
    for last_line in kept:
        if "answers[[" in last_line or "warehouse.sql" in last_line:
            assert [line.split()[:3] for line in found[last_line].splitlines()] == [
                line.split()[:3] for line in kept[last_line].splitlines()
            ]
    assert "stderr" not in str(nbformat.read(again, as_version=4)), "nothing of a library leaks"
    (scores,) = [text for line, text in found.items() if "accuracy" in line]
    values = {line.split()[1]: float(line.split()[3]) for line in scores.splitlines()[1:4]}
    assert values["own"] > values["default"] > values["other"]
