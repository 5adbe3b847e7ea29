"""Read pplug.toml: defaults for the options of the commands, and kinds of tasks.

    warehouse = "/data/warehouse"     an option, for every command that has it
    [train]                           options of one command, spelled like its flags
    epochs = 4
    [warehouse]                       instead of the one line: the place, and what its store wants to know
    place = "s3://bucket/warehouse"
    options = { AWS_REGION = "eu-central-1" }
    [beam]                            options of Apache Beam, as behind `--`
    runner = "FlinkRunner"
    [ingest.articles]                 how files of one origin are read: map, kind; see --like
    [kinds.recipes]                   a kind of task; its fields are those of llm_jobs/kinds/*.toml

An option in no command is an error, so that a misspelled one cannot go unnoticed.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from embedder.errors import InputMissing, UsageError

DEFAULT_FILE = Path("pplug.toml")  # in the working directory; it need not exist

OptionNames = Mapping[str, Mapping[str, str]]
"""For each command ("ingest lamp" is one) its flags without dashes, and the name of the parameter each one sets."""


@dataclass(frozen=True)
class Settings:
    """What a pplug.toml says."""

    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """For each command (and below a group for each of its commands) the values of parameters."""
    kinds: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The tables below [kinds], unchecked."""
    sources: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The tables below [ingest] that are no command, unchecked."""
    warehouse_options: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the store of the warehouse wants to know."""
    beam_options: tuple[str, ...] = ()
    """Flags of Apache Beam."""


def read_settings(path: Path | None, options: OptionNames) -> Settings:
    """Read the file, or ./pplug.toml if there is one.

    Raises:
        InputMissing: if the file that was named is not there.
        UsageError: if it is no TOML, or has an option that no command has.
    """
    found = path or DEFAULT_FILE
    if not found.is_file():
        if path is None:
            return Settings()
        raise InputMissing(f"no settings file {path}: check --config")
    try:
        content = tomllib.loads(found.read_text(encoding="utf8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{found} is no TOML ({error}): mend it, or name another file with --config") from error
    kinds = content.pop("kinds", {})
    if not isinstance(kinds, dict):
        raise UsageError(f"{found}: kinds = {kinds!r} is no table: write [kinds.NAME]")
    sources = _sources(content, options)
    beam = _beam_flags(content.pop("beam", {}), found)
    store_options = _take_warehouse(content, found)
    return Settings(_defaults(content, options, found), kinds, sources, store_options, beam)


def _sources(content: dict[str, Any], options: OptionNames) -> dict[str, Any]:
    """Take the tables out that say how files are read; they have a `map` or a kind of their own and name no command."""
    ingest = content.get("ingest")
    if not isinstance(ingest, dict):
        return {}
    own = [name for name, value in ingest.items() if isinstance(value, dict) and f"ingest {name}" not in options]
    return {name: ingest.pop(name) for name in own}


def _take_warehouse(content: dict[str, Any], path: Path) -> Mapping[str, str]:
    """Leave of a table [warehouse] its place, and return its options."""
    table = content.get("warehouse")
    if not isinstance(table, dict):
        return {}
    if unknown := table.keys() - {"place", "options"}:
        raise UsageError(f"{path}: [warehouse] has no {min(unknown)!r}: it takes place and options")
    place, options = table.get("place"), table.get("options", {})
    if not isinstance(options, dict):
        raise UsageError(f"{path}: options = {options!r} is no table: write [warehouse.options]")
    del content["warehouse"]
    content |= {} if place is None else {"warehouse": place}
    return {str(name): str(value) for name, value in options.items()}


def _beam_flags(table: object, path: Path) -> tuple[str, ...]:
    if not isinstance(table, dict):
        raise UsageError(f"{path}: beam = {table!r} is no table: write [beam] and its options below")
    flags = list[str]()
    for name, value in table.items():
        listed = value if isinstance(value, list) else [] if value is False else [value]
        flags += [f"--{name}"] if value is True else [f"--{name}={one}" for one in listed]
    return tuple(flags)


def _defaults(content: Mapping[str, Any], options: OptionNames, path: Path) -> dict[str, Any]:
    scoped = dict(_scopes(content, ""))
    for scope, values in scoped.items():
        covered = [flags for command, flags in options.items() if _is_in(command, scope)]
        if not covered:
            raise UsageError(f"{path}: no command {scope!r}{_nearest(scope, options)}: see `pplug --help`")
        known = {flag for flags in covered for flag in flags}
        for flag in values.keys() - known:
            advice = f"see `pplug {scope or 'COMMAND'} --help`"
            raise UsageError(f"{path}: no option {flag!r} in [{scope}]{_nearest(flag, known)}: {advice}")
    tree: dict[str, Any] = {}
    for command, flags in options.items():
        place = tree
        for word in command.split():
            place = place.setdefault(word, {})
        for scope in sorted(scoped, key=len):  # the nearest table wins
            if _is_in(command, scope):
                place |= {flags[flag]: _plain(value) for flag, value in scoped[scope].items() if flag in flags}
    return tree


def _scopes(content: Mapping[str, Any], scope: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each table with its options, named like the command or the group it is for; "" is the top."""
    yield scope, {key.replace("_", "-"): value for key, value in content.items() if not isinstance(value, dict)}
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _scopes(value, f"{scope} {key}".strip())


def _is_in(command: str, scope: str) -> bool:
    return not scope or command == scope or command.startswith(f"{scope} ")


def _plain(value: object) -> object:
    """TOML has dates, the command line has their text."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, date | datetime) else value


def _nearest(word: str, known: Mapping[str, Any] | set[str]) -> str:
    near = get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
