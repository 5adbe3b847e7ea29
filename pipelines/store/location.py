"""Where a path leads: a place on this machine, under one name whatever way it was spelled."""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from embedder.errors import UsageError

URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(.*)", re.DOTALL)  # one slash: pathlib makes one of two

UNREADABLE: Final = "%?#\\"
"""Letters of a path that deltalake 1.6 takes for something else, as it reads a URL."""


class ForeignUrl(UsageError):
    """A URL that is no path of this machine."""


def local_path(name: str | Path) -> Path:
    """The path that a folder, a `file://` URL or a path that begins with `~` stands for.

    Raises:
        ForeignUrl: if it is a URL of anything else.
        UsageError: if it names a user who is not there.
    """
    text = str(name)
    if found := URL.fullmatch(text):
        scheme, rest = found.groups()
        host, slash, path = rest.removeprefix("/").partition("/") if rest.startswith("/") else ("", "/", rest)
        if scheme.lower() != "file" or host not in ("", "localhost"):
            raise ForeignUrl(f"{text} is no place on this machine: name a path, or file:///PATH")
        return Path(slash + unquote(path))
    expanded = os.path.expanduser(text)  # pathlib would take the folder ./~ for a home as well
    if expanded.startswith("~") and text.startswith("~"):
        raise UsageError(f"{text}: no home folder of that user is known: write the whole path")
    return Path(expanded)


def resolved(root: Path) -> Path:
    """The one name of a warehouse's folder: absolute, links followed, so that Delta and the system mean the same one.

    Raises:
        UsageError: if it is no folder that the tables could lie in.
    """
    if URL.fullmatch(str(root)):
        root = local_path(root)
    try:
        path = root.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise UsageError(f"warehouse path {root} leads nowhere ({error}): choose another --warehouse") from error
    odd = [letter for letter in UNREADABLE if letter in str(path)]
    if odd:
        raise UsageError(f"warehouse path {root} has a {odd[0]}: choose another --warehouse")
    return path
