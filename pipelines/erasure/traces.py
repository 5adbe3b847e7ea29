"""Look for a user in every file of a warehouse, whether a table still holds it or not.

Folders that are links are followed.

*.parquet (also unfinished ones)    ─▶ rows, decoded
_delta_log: commits, checkpoints    ─▶ ranges of values, conditions
other JSON                          ─▶ its texts
anything else                       ─▶ its bytes
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pipelines.erasure.person import TEXT_COLUMNS, Person, own_rows, read_rows
from pipelines.erasure.user_key import KEY_FILE
from pipelines.store.leases import RUNNING

LOG_FOLDER: Final = "_delta_log"
NEEDED: Final = ("user_id", "row_id", "detail", "source", "error", "config")  # the columns that tell whose a row is


def find_traces(root: Path, person: Person) -> list[Path]:
    """The files that tell something of the user; one that cannot be read tells nobody that it does not."""
    return [path for path in data_files(root) if _tells(path, person)]


def data_files(root: Path) -> list[Path]:
    """All files of a warehouse but its key and the leases of runs, in a fixed order."""
    found, seen = list[Path](), set[tuple[int, int]]()
    for folder, inner, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen or Path(folder) == root / RUNNING:
            inner.clear()  # a link may lead back
            continue
        seen.add((status.st_dev, status.st_ino))
        found += [Path(folder, name) for name in names if not name.startswith(KEY_FILE)]
    return sorted(path for path in found if path.is_file())


def _tells(path: Path, person: Person) -> bool:
    try:
        if path.parent.name == LOG_FOLDER:
            return any(_log_tells(entry, person) for entry in _log_entries(path))
        if ".parquet" in path.name:
            return own_rows(read_rows(path, NEEDED), person).true_count > 0
        if path.suffix == ".json":
            return person.user_id in _texts(json.loads(path.read_bytes()))
    except ValueError:  # neither Parquet nor JSON, whatever its name
        return True
    return person.user_id.encode() in path.read_bytes()


def _log_entries(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".parquet":
        yield from read_rows(path).to_pylist()
    else:
        yield from (json.loads(line) for line in path.read_text(encoding="utf8").splitlines() if line)


def _log_tells(entry: Mapping[str, Any], person: Person) -> bool:
    """Delta's log may hold the least and greatest values of a file, texts cut, and the condition of a deletion."""
    stats = [json.loads(found) for name in ("add", "remove") if (found := (entry.get(name) or {}).get("stats"))]
    ranges = [file.get(side) or {} for file in stats for side in ("minValues", "maxValues")]
    if any(name in values for values in ranges for name in TEXT_COLUMNS) or person.user_id in _texts(ranges):
        return True
    condition = ((entry.get("commitInfo") or {}).get("operationParameters") or {}).get("predicate")
    return any(person.is_named(text) for text in _texts(condition))


def _texts(value: object) -> Iterator[str]:
    """Every text in a JSON value, names of fields aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for inner in value.values() for text in _texts(inner))
    elif isinstance(value, list):
        yield from (text for inner in value for text in _texts(inner))
