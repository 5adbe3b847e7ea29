"""Pages of the site that are made when it is built: the first one from README.md, the commands from their --help."""

import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

from pipelines.cli import app

ROOT: Final = Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, text in (("index.md", home()), ("cli.md", commands())):
        files.append(File.generated(config, name, content=text))
    return files


def home() -> str:
    """README.md, whose links into docs/ are links within the site."""
    text = (ROOT / "README.md").read_text(encoding="utf8")
    return "---\nhide: [navigation]\n---\n" + re.sub(r"(\]\(|src=\")docs/", r"\1", text)


SHARED: Final = """
Every option may be given in three places: as a flag, as an environment variable `PPLUG_...`, and in `pplug.toml`; the
first that is given counts. Rows go to stdout (`--json` for machines), everything else to stderr. Whatever writes has
`--dry-run`, and running it twice equals running it once. An error is one line that names the next command to type;
`--debug` shows the traceback.
"""


def commands() -> str:
    """Every command with its options, and what all of them share."""
    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command), name="pplug", title="Commands")
    text = text.replace("# Commands\n", f"# Commands\n{SHARED}", 1)
    return re.sub(r"^Example: (.+)$", r"    \1", text, flags=re.M)
