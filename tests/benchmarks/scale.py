"""What nights cost as users grow: CPU, memory, bytes and files of every step, with stand-ins for the two models.

    made-up users ─▶ ingest ─▶ full night ─▶ tasks ─▶ checks, report, queries ─▶ a month of nights with 1% new items
                                                       ─▶ compact ─▶ tasks, checks, report, queries, nightly again

    python tests/benchmarks/scale.py --users 10000 100000 --folder /tmp/scale

Each step is a command line of pplug in a process of its own. Rows go to FOLDER/rows.jsonl as they are measured; started
again, the benchmark goes on after the last of them. CPU seconds are those of the step: importing the libraries (told in
`start_cpu`) and the stand-ins themselves (`model_cpu`) are taken off in the table.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling.steps import Plan, Step
from scaling.table import tables
from scaling.users import Users

ROOT = Path(__file__).parents[2]


MODEL_COMMANDS = frozenset({"encode", "generate", "nightly"})


def run_step(warehouse: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command line in this process, with the stand-ins, and measure it."""
    from pipelines.command.boundary import prepare_environment

    prepare_environment()
    from scaling.measuring import measured

    from pipelines.cli import main

    if arguments[0] not in MODEL_COMMANDS:
        return measured(warehouse, lambda: main(list(arguments))) | {"model_cpu": 0.0}
    import apache_beam  # pyright: ignore[reportUnusedImport]  # noqa: F401  # loaded before the measuring begins
    from scaling.stand_ins import stand_in

    import pipelines.nightly  # pyright: ignore[reportUnusedImport]  # noqa: F401

    encoder = stand_in()
    return measured(warehouse, lambda: main(list(arguments))) | {"model_cpu": encoder.seconds}


def in_own_process(plan: Plan, step: Step) -> dict[str, Any]:
    """Measure a step in a process of its own."""
    found, said = plan.folder / "step.json", plan.folder / "said.txt"
    found.unlink(missing_ok=True)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    settings = dict.fromkeys(names, "1") | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": paths}
    command = [sys.executable, __file__, "--step", str(found), str(plan.warehouse), "--", *step.arguments]
    with said.open("w") as file:
        code = subprocess.run(
            command, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=file, check=False
        ).returncode
    if not found.exists():
        raise SystemExit(f"{step.key} ended with {code}: {said.read_text()[-2000:]}")
    row: dict[str, Any] = json.loads(found.read_text())
    if row["exit_code"]:
        row["said"] = said.read_text()[-500:]
    return row


def measure(plan: Plan, rows: Path, label: str, beginnings: Sequence[str]) -> None:
    """Measure the steps that have no row yet and whose names begin so."""
    plan.warehouse.mkdir(parents=True, exist_ok=True)
    about = {"label": label, "users": plan.users.count, "items_each": plan.users.items_each}
    done = {row["key"] for row in read_rows(rows) if about.items() <= row.items()}
    for step in plan.steps():
        if step.key in done or not step.name.startswith(tuple(beginnings)):
            continue
        write_inputs(plan, step)
        row = about | {"key": step.key, "step": step.name, "item_count": plan.users.item_count}
        row |= in_own_process(plan, step)
        with rows.open("a", encoding="utf8") as file:
            file.write(json.dumps(row) + "\n")
        sys.stderr.write(f"{plan.users.count:>9} {step.key:50} {row['cpu']:8.1f} s {row['peak_mb']:7.0f} MB\n")


def write_inputs(plan: Plan, step: Step) -> None:
    """Write the file that a step brings in, and the plug."""
    if not (plan.folder / "plug").exists():
        from scaling.stand_ins import write_plug

        write_plug(plan.folder / "plug")
    items, tasks = plan.items(step.night), plan.tasks(step.night)
    if str(items) in step.arguments and not items.exists():
        plan.users.write_items(items, step.night)
    if str(tasks) in step.arguments and not tasks.exists():
        plan.users.write_tasks(tasks, step.night, plan.task_count)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What was measured."""
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()] if path.exists() else []


def commands() -> frozenset[str]:
    """The commands of this version."""
    import typer

    from pipelines.cli import app

    return frozenset(typer.main.get_group(app).commands)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[10_000])
    parser.add_argument("--items", type=int, default=20, help="of a user, on average")
    parser.add_argument("--tasks", type=int, default=10_000, help="of a night that has any")
    parser.add_argument("--nights", type=int, default=30, help="of the month")
    parser.add_argument("--form", choices=["parquet", "jsonl"], default="jsonl", help="of the files brought in")
    parser.add_argument("--folder", type=Path, default=Path("build/scale"), help="of warehouses and rows")
    parser.add_argument("--label", default="", help="written to the rows: which version this is")
    parser.add_argument("--steps", nargs="+", default=[""], help="how the names of steps begin that are measured")
    parser.add_argument("--print", action="store_true", help="only print what was measured")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        found, warehouse = map(Path, arguments.step)
        found.write_text(json.dumps(run_step(warehouse, arguments.arguments)), encoding="utf8")
        return 0
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for count in [] if arguments.print else arguments.users:
        own = folder / f"{arguments.label}-{count}-{arguments.items}"
        plan = Plan(own, Users(count, arguments.items), arguments.form, arguments.nights, arguments.tasks, commands())
        measure(plan, folder / "rows.jsonl", arguments.label, arguments.steps)
    wanted = [row for row in read_rows(folder / "rows.jsonl") if row["label"] == arguments.label]
    sys.stdout.writelines(f"{line}\n" for line in tables(wanted))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
