"""What a step costs, measured in its own process: CPU, memory, bytes, and the files of the warehouse that it opens."""

import ctypes
import ctypes.util
import os
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

OPENED: Final = 0x20
"""IN_OPEN of inotify."""
EVENT: Final = struct.Struct("iIII")


class Opened:
    """Counts the different files of a folder that are opened, by Linux's inotify; folders made later do not count."""

    def __init__(self, folder: Path) -> None:
        self.files = set[tuple[int, bytes]]()
        self._libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
        self._descriptor: int = self._libc.inotify_init()
        for here, _, _ in os.walk(folder):
            if not Path(here).name.startswith("_"):
                self._libc.inotify_add_watch(self._descriptor, os.fsencode(here), OPENED)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while data := os.read(self._descriptor, 2**20):
            at = 0
            while at < len(data):
                watch, _, _, length = EVENT.unpack_from(data, at)
                name = data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0")
                at += EVENT.size + length
                if name.endswith(b".parquet"):
                    self.files.add((watch, name))


def measured(warehouse: Path, run: Callable[[], int]) -> dict[str, Any]:
    """Run a step; the process has imported by now what it needs, which is told apart as `start_cpu`."""
    opened, before = Opened(warehouse), files_of(warehouse)
    start_mb = peak_mb()
    start_cpu, start, bytes_before = time.process_time(), time.perf_counter(), bytes_moved()
    exit_code = run()
    cpu, wall, bytes_after = time.process_time() - start_cpu, time.perf_counter() - start, bytes_moved()
    there = files_of(warehouse)
    new = {name: size for name, size in there.items() if name not in before}
    return {
        "exit_code": exit_code,
        "cpu": cpu,
        "start_cpu": start_cpu,
        "wall": wall,
        "start_mb": start_mb,
        "peak_mb": peak_mb(),
        "read_mb": (bytes_after["rchar"] - bytes_before["rchar"]) / 1e6,
        "written_mb": (bytes_after["wchar"] - bytes_before["wchar"]) / 1e6,
        "new_files": len(new),
        "new_mb": by_table(new),
        "there_files": sum(name.endswith(".parquet") for name in there),
        "there_mb": by_table(there),
        "opened_files": len(opened.files),
    }


def files_of(folder: Path) -> dict[str, int]:
    """Every file below a folder with its size."""
    found = dict[str, int]()
    for here, _, names in os.walk(folder):
        found |= {
            os.path.relpath(os.path.join(here, name), folder): os.stat(f"{here}/{name}").st_size for name in names
        }
    return found


def by_table(files: dict[str, int]) -> dict[str, float]:
    """Megabytes of each table."""
    sums = Counter[str]()
    for name, size in files.items():
        sums[name.partition("/")[0]] += size
    return {name: size / 1e6 for name, size in sums.items()}


def bytes_moved() -> dict[str, int]:
    """Bytes that this process has read and written by system calls, cached or not."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(count) for name, count in (line.split(": ") for line in lines)}


def peak_mb() -> float:
    """Most memory that this process has had; ru_maxrss starts from what the process that started it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kilobytes) / 1024
