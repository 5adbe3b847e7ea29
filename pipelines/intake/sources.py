"""What a SOURCE of `pplug ingest` names, and how it is opened.

    file, folder, glob, - ─▶ expanded ─▶ Source ─▶ opened: unpacked, known by its content ─▶ chunks

What comes through a pipe is copied to disk first: it can be read only once, and Parquet is read from its end.
"""

import contextlib
import glob
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import unquote

import pyarrow as pa

from embedder.errors import InputMissing, PplugError
from pipelines.intake.chunks import Chunk, ColumnNames, chunks_of_records
from pipelines.intake.csv_files import DELIMITERS, csv_chunks
from pipelines.intake.json_files import json_elements, json_lines
from pipelines.intake.parquet_files import MAGIC, parquet_chunks
from pipelines.intake.rejects import Reject
from pipelines.intake.remote import is_remote, listed, open_remote, spelled
from pipelines.store.stored import Store

STDIN: Final = "-"
HEAD_BYTES: Final = 64 * 2**10
ENDINGS: Final = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
PACKED: Final = {".gz": "gzip", ".zst": "zstd"}
_PACKED_MAGIC: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_NULL_PARTITION: Final = "__HIVE_DEFAULT_PARTITION__"
_LIST: Final = re.compile(rb"\s*\[\s*(\{|\Z)")
_EMPTY_LIST: Final = re.compile(rb"\s*\[\s*\]\s*\Z")


@dataclass(frozen=True)
class Source:
    """A file to read."""

    path: Path
    partitions: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    """Columns that the names of folders hold, as in kind=LaMP_4/part-0.parquet."""
    store: Store | None = None  # where the path is the name of an object; None on this machine

    @property
    def is_stdin(self) -> bool:
        return str(self.path) == STDIN

    @property
    def label(self) -> str:
        """How the file is called in row ids."""
        return "stdin" if self.is_stdin else self.path.name

    @property
    def name(self) -> str:
        """How the file is called in `rejects.source`."""
        if self.store is not None:
            return f"{self.store}/{self.path}"
        return "stdin" if self.is_stdin else self.path.absolute().as_posix()


def expanded(given: Sequence[Path], options: Mapping[str, str] | None = None) -> list[Source]:
    """The files that are meant, in a fixed order.

    Args:
        given: files, folders and globs of this machine or of an object store, and `-`.
        options: of the object store; its environment variables count besides.

    Raises:
        InputMissing: if there is none of some name.
        PplugError: if one may not be read.
    """
    sources = [
        source
        for path in given
        for source in (_objects_of(path, options or {}) if is_remote(path) else _files_of(path))
    ]
    for source in sources:
        if not source.is_stdin and source.store is None and not os.access(source.path, os.R_OK):
            raise PplugError(f"{source.path} cannot be read (Permission denied): name a readable file")
    return sources


def _files_of(path: Path) -> Iterator[Source]:
    if str(path) == STDIN:
        yield Source(path)
    elif path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if _is_data(file, path)]
        if not files:
            raise InputMissing(f"no file in {path} ends in {', '.join(ENDINGS)}: check the path")
        yield from (Source(file, _partitions(file, path)) for file in files)
    elif path.exists():
        yield Source(path)
    else:
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        if not files:
            raise InputMissing(f"no file {path}: check the path")
        root = Path(*path.parts[: next(at for at, part in enumerate(path.parts) if glob.has_magic(part))])
        for file in files:
            if file.is_dir():
                yield from _files_of(file)
            else:
                yield Source(file, _partitions(file, root))


def _objects_of(path: Path, options: Mapping[str, str]) -> Iterator[Source]:
    store, names, is_one = listed(path, options)
    files = [Path(name) for name in names]
    found = files if is_one else [file for file in files if _is_named_as_data(file, Path())]
    if not found:
        raise InputMissing(f"no file {spelled(path)} that ends in {', '.join(ENDINGS)}: check its name")
    yield from (Source(file, _partitions(file, Path()), store) for file in found)


def _is_data(file: Path, root: Path) -> bool:
    return file.is_file() and _is_named_as_data(file, root)


def _is_named_as_data(file: Path, root: Path) -> bool:
    """Spark and Delta keep their own files under names with _ and . in front."""
    own = any(part.startswith(("_", ".")) for part in file.relative_to(root).parts)
    suffixes = [suffix for suffix in file.suffixes[-2:] if suffix not in PACKED]
    return not own and bool(suffixes) and suffixes[-1] in ENDINGS


def _partitions(file: Path, root: Path) -> dict[str, str | None]:
    pairs = [part.partition("=") for part in file.relative_to(root).parts[:-1] if "=" in part]
    return {key: None if value == _NULL_PARTITION else unquote(value) for key, _, value in pairs}


def read_chunks(source: Source, columns: ColumnNames, folder: Path) -> Generator[Chunk]:
    """Read a file, whatever its form.

    Args:
        source: the file.
        columns: the columns to read.
        folder: where what comes through a pipe is kept meanwhile.
    """
    partitions = {ours: source.partitions[theirs] for ours, theirs in columns.items() if theirs in source.partitions}
    with opened(source, folder) as file:
        for chunk in _chunks(source.label, file, columns, folder):
            more = {name: [value] * len(chunk.row_ids) for name, value in partitions.items()}
            yield replace(chunk, columns={**chunk.columns, **more})


@contextlib.contextmanager
def opened(source: Source, folder: Path) -> Generator[io.BufferedReader]:
    """Open a file, unpacked if it is packed; a pipe is copied to the folder first, for it can be read only once."""
    with contextlib.ExitStack() as stack:
        if source.store is not None:
            raw: Any = stack.enter_context(open_remote(source.store, f"{source.path}"))
        else:
            raw = sys.stdin.buffer if source.is_stdin else stack.enter_context(source.path.open("rb", HEAD_BYTES))
        if not raw.seekable():
            raw = stack.enter_context(_copied(raw, folder))
        head = raw.peek(4)[:4]
        codec = next((codec for magic, codec in _PACKED_MAGIC.items() if head.startswith(magic)), None)
        if codec is not None:
            raw = io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec), HEAD_BYTES)
        yield raw


def _copied(file: IO[bytes], folder: Path) -> IO[bytes]:
    copy = tempfile.TemporaryFile(dir=folder, buffering=HEAD_BYTES)  # noqa: SIM115  the caller closes it
    shutil.copyfileobj(file, copy, 2**20)
    copy.seek(0)
    return copy


def _chunks(label: str, file: io.BufferedReader, columns: ColumnNames, folder: Path) -> Iterator[Chunk]:
    try:
        form = form_of(file.peek(HEAD_BYTES)[:HEAD_BYTES], label)
        if form == "parquet":
            with contextlib.nullcontext(file) if file.seekable() else _copied(file, folder) as whole:
                yield from parquet_chunks(label, whole, columns)
        elif form == "csv":
            yield from csv_chunks(label, file, columns)
        elif form in ("jsonl", "json"):
            records = json_lines(file) if form == "jsonl" else json_elements(file)
            yield from chunks_of_records(label, records, columns)
        else:
            yield Chunk(refused=[(f"{label}:0", Reject(form))])
    except OSError:  # an archive that breaks off
        yield Chunk(refused=[(f"{label}:0", Reject("broken_archive"))])


def form_of(head: bytes, label: str) -> str:
    """The form of a file by its beginning: parquet, jsonl, json, csv, or the reason why it is none."""
    stem = label.removesuffix(".gz").removesuffix(".zst")
    if head.startswith(MAGIC):
        return "parquet"
    if stem.endswith(".parquet") and head and not head.lstrip().startswith(b"{"):
        return "not_a_parquet_file"
    if b"\0" in head:  # binary, or UTF-16
        return "unknown_format"
    text = head.removeprefix(b"\xef\xbb\xbf")
    if text.lstrip().startswith(b"{"):
        return "jsonl"
    if _LIST.match(text) or (stem.endswith(".json") and _EMPTY_LIST.match(text)):
        return "json"
    return "csv" if stem.endswith((".csv", ".tsv")) or _is_header(text) else "jsonl"


def _is_header(text: bytes) -> bool:
    """Whether the first line names columns: several words between delimiters, and no object after it."""
    lines = text.splitlines()
    if not lines or any(line.lstrip().startswith(b"{") for line in lines[1:20]):
        return False
    header = lines[0].decode("utf8", "replace")
    return any(_are_names(header.split(delimiter)) for delimiter in DELIMITERS)


def _are_names(parts: Sequence[str]) -> bool:
    return len(parts) > 1 and all(re.fullmatch(r'\s*"?[^\W\d][\w .-]{0,60}"?\s*', part) for part in parts)
