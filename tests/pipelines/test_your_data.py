"""docs/your_data.md works from its first command to its last, with tiny models."""

import re
import shlex
import tomllib
from pathlib import Path

from command_line import Pplug

PAGE = (Path(__file__).parents[2] / "docs" / "your_data.md").read_text(encoding="utf8")
COMMANDS = re.findall(r"^    pplug (.+)$", PAGE, re.M)


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return found


def test_the_page_goes_from_a_csv_to_an_answer_for_each_user(tiny_models: Pplug, tmp_path: Path) -> None:
    (tmp_path / "articles.csv").write_text(block("csv"), encoding="utf8")
    for command in COMMANDS:
        said = tiny_models(*shlex.split(command))
        assert said.code == 0, f"{command}: {said.err}"
        if command.startswith("sql"):
            assert all(user in said.out for user in ("mara", "jon"))
    shown, written = (tomllib.loads(text)["ingest"] for text in (block("toml"), (tmp_path / "pplug.toml").read_text()))
    assert shown == written
    assert "report.html" in {path.name for path in tmp_path.iterdir()}
