"""Begin in a folder: a commented pplug.toml, small files to try it with, and the commands that come next.

    kind ─┬──────────────▶ pplug.toml, histories.jsonl, tasks.jsonl, commands
    FILE ─┴▶ look_at ────▶ pplug.toml with [ingest.NAME],  tasks.jsonl, commands

A file that is there is left as it is.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

from embedder.plug_config import TURNS
from llm_jobs.kinds import Kind, Metric
from pipelines.intake.advice import TO_UTF8, as_option
from pipelines.intake.remote import spelled
from pipelines.starting.columns import Looked
from pipelines.starting.samples import NEWCOMER, USERS, history_rows, task_rows

SETTINGS: Final = Path("pplug.toml")
HISTORIES: Final = Path("histories.jsonl")
TASKS: Final = Path("tasks.jsonl")
SAMPLE_USERS: Final = (*USERS, NEWCOMER)

_TOML: Final = """\
# Settings of pplug in this folder. A flag goes before a variable (PPLUG_WAREHOUSE), a variable before this file.
# What there is: `pplug COMMAND --help`; each option may stand here without its dashes.

warehouse = "warehouse"    # folder of the tables; the first ingest makes it
# encoder = "minilm"       # encodes texts; or a folder, or a downloaded hub id
# llm = "smollm2"          # writes the answers; likewise
# memory = "2G"            # most that the LLM's keys and values take
# private = true           # files that you alone may read

[train]
kind = {kind}
plug = {plug}

[generate]
plug = [{plug}]    # one for each kind of task

[nightly]
plug = [{plug}]
{source}
# A kind of your own, under a new name; one of pplug's own under its name in the tables. Fields: `pplug kinds {spoken}`
# [kinds.my_kind]
# metric = "rouge"
# prompt = "Write a subject line for this mail: {{text}}"
# query_marker = "mail:"
"""

_SOURCE: Final = """
# Read with `pplug ingest histories FILE --like {name}`: our columns and what the file calls them
[ingest.{name}]
kind = {kind}
map = {{ {columns} }}
"""

_LABELS: Final = """
# What the first {rows} rows of that file are labelled with, instead of the choices that come with {spoken}
[kinds.{name}]
choices = [{labels}]
"""


@dataclass(frozen=True)
class Start:
    """How a folder begins."""

    kind: Kind
    spoken: str
    """The name of the kind that people say."""
    today: date
    file: Path | None = None
    """A file of histories; the sample's unless given."""
    looked: Looked | None = None
    """What was found in it."""
    saved: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The tables [ingest.NAME] of a pplug.toml that is there already."""

    @property
    def source(self) -> str:
        """NAME of [ingest.NAME]."""
        stem = (self.file or HISTORIES).name.partition(".")[0]
        return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_") or "file"


@dataclass(frozen=True)
class Begun:
    """What a folder has now."""

    files: list[dict[str, str]]
    commands: list[dict[str, str]]
    """What comes next, in its order."""
    told: list[str]
    """What a person should know of their file."""


def begin(start: Start, folder: Path, *, dry_run: bool = False) -> Begun:
    """Write the files that are not there yet.

    Args:
        start: how the folder begins.
        folder: the folder.
        dry_run: write nothing.
    """
    wanted = wanted_files(start)
    new = [path for path in wanted if not (folder / path).exists()]
    if not dry_run:
        for path in new:
            with (folder / path).open("x", encoding="utf8") as file:
                file.write(wanted[path][1])
    is_new = SETTINGS in new
    states = {True: "to be written" if dry_run else "written", False: "left as it is"}
    files = [{"file": f"{path}", "holds": holds, "state": states[path in new]} for path, (holds, _) in wanted.items()]
    return Begun(files, next_commands(start, is_new=is_new), list(_told(start, is_new=is_new)))


def wanted_files(start: Start) -> dict[Path, tuple[str, str]]:
    """For each file what it holds, in words, and its text."""
    looked = start.looked
    users = SAMPLE_USERS if looked is None else looked.users
    tasks = _lines(task_rows(start.kind, start.spoken, start.today, users))
    files = {SETTINGS: ("settings", settings_text(start)), TASKS: ("a task for each of some users", tasks)}
    if looked is None:
        histories = _lines(history_rows(start.kind, start.spoken, start.today))
        files[HISTORIES] = ("what two users wrote or did", histories)
    return files


def _told(start: Start, *, is_new: bool) -> Iterator[str]:
    looked = start.looked
    if looked is None:
        return
    found = ", ".join(f"{ours} is {theirs}" for ours, theirs in looked.columns.items())
    file = spelled(start.file or HISTORIES)
    yield f"{file}: {found}" if found else f"{file}: its columns have our names"
    if looked.labels:
        told = f"its {len(looked.labels)} labels are not all of {start.spoken}'s own"
        yield f"{told}: {'pplug.toml lists them' if is_new else f'list them in [kinds.{start.kind.name}]'} as choices"
    for reason, count in looked.refused.items():
        mend = f"; {TO_UTF8}" if reason == "not_utf8" else ""
        yield f"of its first {looked.row_count} rows {count} would be refused: {reason}{mend}"


def settings_text(start: Start) -> str:
    """A pplug.toml with comments."""
    kind, source = _quoted(start.spoken), ""
    if start.looked is not None:
        columns = ", ".join(f"{ours} = {_quoted(theirs)}" for ours, theirs in start.looked.columns.items())
        source = _SOURCE.format(name=start.source, kind=kind, columns=columns).replace("{  }", "{}")
        if labels := ", ".join(map(_quoted, start.looked.labels)):
            rows = start.looked.row_count
            source += _LABELS.format(rows=rows, spoken=start.spoken, name=start.kind.name, labels=labels)
    return _TOML.format(kind=kind, plug=_quoted(_plug(start)), source=source, spoken=start.spoken)


def next_commands(start: Start, *, is_new: bool) -> list[dict[str, str]]:
    """The commands from the files to an answer, in their order.

    Args:
        start: how the folder begins.
        is_new: whether pplug.toml is ours; another one may not know the source.
    """
    plug, ds = _plug(start), f"--ds {start.today}"
    read = shlex.quote(spelled(start.file or HISTORIES))
    if start.looked is not None and (is_new or start.source in start.saved):
        read += f" --like {start.source}"
    elif start.looked is not None:
        mapped = f" --map {shlex.quote(as_option(start.looked.columns))}" if start.looked.columns else ""
        read += f"{mapped} --kind {start.spoken}"
    learned, once = f" --tasks {start.today}" if start.kind.prompt is None else "", "once: learn to use personas"
    if start.kind.metric is Metric.ROUGE and start.kind.prompt is not None:
        learned, once = f" --aggregation {TURNS}", "once: let the model read users' own items"
    steps = {
        "what users wrote or did": f"ingest histories {read} {ds}",
        "what shall be answered": f"ingest tasks {TASKS} {ds}",
        once: f"train --kind {start.spoken} --plug {plug}{learned}",
        "every night: encode and answer": f"nightly {ds} --plug {plug}",
        "read the answers": f"sql \"select user_id, output from outputs where ds = '{start.today}'\"",
        "why an answer is what it is": f"explain task-1 --plug {plug}",
        "the night as a page": f"report {ds} --out report.html",
    }
    return [{"next": f"pplug {command}", "what_for": step} for step, command in steps.items()]


def _plug(start: Start) -> str:
    return f"plugs/{start.spoken}"


def _quoted(text: str) -> str:
    """A text as TOML spells it; its rules are those of JSON but for a few control characters."""
    return json.dumps(text, ensure_ascii=False)


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
