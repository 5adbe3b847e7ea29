"""What the README and the pages of docs/ show: their commands, and blocks of code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from pipelines.cli import app
from pipelines.command.boundary import State

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
"""Every page by its path."""


def commands(page: str) -> list[str]:
    """The commands that a page shows, each on one line: what stands behind `pplug` in lines of code."""
    text = PAGES[page].replace("\\\n", " ")
    return [shown.strip() for shown in re.findall(r"^    pplug (.+?)(?:\s+#.*)?$", text, re.M)]


def blocks(page: str, language: str) -> list[str]:
    """The blocks of code of a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.S)


def shown() -> Iterator[tuple[str, str]]:
    """Every page with every command in it."""
    for page in PAGES:
        for line in commands(page):
            yield page, line


def check_words(words: list[str], page: str = "docs/scheduling.md") -> None:
    """The command is there, and takes these options and values."""
    command: Any = typer.main.get_command(app)
    path = list[str]()
    while hasattr(command, "commands"):
        name = words[len(path)] if len(path) < len(words) else "--help"
        if name == "--help":
            return
        path.append(name)
        assert name in command.commands, f"{page} shows pplug {' '.join(path)}, which is not there"
        command = command.commands[name]
    rest = [word for word in words[len(path) :] if word != "--help"]
    if len(rest) == len(words) - len(path):
        command.make_context(path[-1], rest, resilient_parsing=False, obj=State())
