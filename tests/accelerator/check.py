"""All checks on a GPU, each in a process of its own, and the table of what they found; check.sh runs it.

The table is written anew after each check, so that a run that is cut off leaves what it had. A check that fails, or for
which there is no time, is a row that says so; so is a device that is not there.
"""

import argparse
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import agreement
import throughput
import torch
from rows import FAILED, NOT_RUN, Row, Setting

from embedder.devices import chosen_device, device_facts
from embedder.errors import UsageError

CHECKS: Final[dict[str, Callable[[Setting], list[Row]]]] = {
    "vectors": agreement.vectors,
    "answers": agreement.answers,
    "losses": agreement.losses,
    "encoder": throughput.encoder,
    "training": throughput.training,
    "engine, small": throughput.small_engine,
    "vLLM, small": throughput.small_vllm,
    "engine, large": throughput.large_engine,
    "engine, 8 bit": throughput.large_engine_8_bit,
    "engine, 4 bit": throughput.large_engine_4_bit,
    "vLLM, large": throughput.large_vllm,
}
"""What matters most comes first."""

LONGEST: Final = 150
"""Seconds that one check may take, so that one that hangs leaves time for others."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the checks and write the table; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="?", type=Path, default=Path("accelerator.md"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: shows that the checks run")
    parser.add_argument("--seconds", type=float, default=470, help="for all checks together")
    parser.add_argument("--only", nargs="*", choices=list(CHECKS), default=list(CHECKS))
    asked = parser.parse_args(words)
    ends_at, rows = time.monotonic() + asked.seconds, list[Row]()
    try:
        setting = Setting(str(chosen_device(asked.device)), asked.tiny)
    except UsageError as error:
        rows.append(Row("device", "", "", f"{FAILED}: {error}"))
        asked.table.write_text(document(rows, Setting("cpu", asked.tiny)), encoding="utf8")
        return 1
    for name in asked.only:
        start = time.monotonic()
        rows += in_time(name, setting, min(LONGEST, ends_at - start))
        sys.stderr.write(f"{name}: {time.monotonic() - start:.0f} s\n")
        asked.table.write_text(document(rows, setting), encoding="utf8")
    return int(any(row.result.startswith(FAILED) for row in rows))


def in_time(name: str, setting: Setting, seconds: float) -> list[Row]:
    """Run a check in a process of its own, so that nothing it does or leaves reaches the next one."""
    if seconds < 5:
        return [Row(name, "", "", f"{NOT_RUN}: no time left")]
    context = multiprocessing.get_context("fork" if setting.is_tiny else "spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(name, setting, there), daemon=not name.startswith("vLLM"))
    process.start()
    there.close()
    try:
        found: Any = here.recv() if here.poll(seconds) else f"{NOT_RUN}: not done in {seconds:.0f} s"
    except EOFError:
        process.join()
        found = f"{FAILED}: the process ended with {process.exitcode}"
    process.kill()
    process.join()
    return [Row(name, "", "", found)] if isinstance(found, str) else found


def answer(name: str, setting: Setting, there: Connection) -> None:
    """Tell the rows of a check, or how it failed."""
    try:
        there.send(CHECKS[name](setting))
    except Exception as error:  # whatever a card or a driver says
        there.send(f"{FAILED}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def document(rows: Sequence[Row], setting: Setting) -> str:
    """Make the table."""
    facts = device_facts(setting.device)
    where = facts.get("card", "CPU") + (f", driver {driver()}" if "card" in facts else "")
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {where}, torch {torch.__version__}"
        + (", tiny shapes: the numbers say nothing about speed" if setting.is_tiny else ""),
        "",
        "| check | found | wanted | result |",
        "|---|---|---|---|",
    ]
    lines += [f"| {row.check} | {row.found} | {row.wanted} | {row.result.replace('|', '/')} |" for row in rows]
    return "\n".join(lines) + "\n"


def driver() -> str:
    """Ask the driver for its version."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
