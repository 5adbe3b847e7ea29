"""The cost of all steps as Markdown: each beside the full night, and each user beside a user of the smallest size."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

Row = Mapping[str, Any]

MEANS = ("cpu", "wall", "model_cpu", "read_mb", "written_mb", "new_files", "opened_files", "there_files")
FULL = "night, full"


def summed(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """The steps of one warehouse by name: means over steps of the same name, and the greatest memory."""
    groups = defaultdict[str, list[Row]](list)
    for row in rows:
        groups[row["step"]].append(row)
    return {
        name: {key: mean(row[key] for row in group) for key in MEANS}
        | {
            "peak_mb": max(row["peak_mb"] for row in group),
            "failed": sum(row["exit_code"] not in (0, 3) for row in group),
        }
        for name, group in groups.items()
    }


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """A table for each size, and one that sets the sizes side by side."""
    sizes = sorted({(row["users"], row["items_each"]) for row in rows})
    by_size = {size: summed([row for row in rows if (row["users"], row["items_each"]) == size]) for size in sizes}
    for size, steps in by_size.items():
        yield from size_table(size, steps)
    if len(sizes) > 1:
        yield from flatness(by_size)


def size_table(size: tuple[int, int], steps: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Each step of one size; shares are of the full night."""
    full = steps.get(FULL)
    yield f"\n{size[0]:,} users, {size[1]} items each on average\n"
    yield "| step | CPU s | share | peak MB | MB read | share | MB written | share | files opened | new files |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, step in steps.items():
        cpu = step["cpu"] - step["model_cpu"]
        shares = ["" for _ in range(3)]
        if full is not None:
            parts = ((cpu, full["cpu"] - full["model_cpu"]), *((step[key], full[key]) for key in MEANS[3:5]))
            shares = [f"{part / whole:.1%}" for part, whole in parts]
        failed = " **failed**" if step["failed"] else ""
        read, written = (f"{step[key]:,.1f}" for key in ("read_mb", "written_mb"))
        cells = [f"{cpu:.1f}", shares[0], f"{step['peak_mb']:,.0f}", read, shares[1], written, shares[2]]
        cells += [f"{step['opened_files']:.0f}", f"{step['new_files']:.0f}"]
        yield f"| {name}{failed} | {' | '.join(cells)} |"


def flatness(by_size: Mapping[tuple[int, int], Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """CPU and bytes of a user in each step, as multiples of those at the smallest size."""
    (smallest, items), *larger = by_size
    first = by_size[smallest, items]
    heads = [f"{users:,} users: {what}" for users, _ in larger for what in ("CPU", "read", "written")]
    yield f"\nEach user, as a multiple of a user among {smallest:,}\n"
    yield f"| step | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    for name in first:
        cells: list[str] = []
        for users, each in larger:
            there = by_size[users, each].get(name)
            for key in ("cpu", "read_mb", "written_mb"):
                cells.append(
                    ""
                    if there is None or not first[name][key]
                    else f"{_each(there, key, users) / _each(first[name], key, smallest):.2f}"
                )
        yield f"| {name} | {' | '.join(cells)} |"


def _each(step: Mapping[str, float], key: str, users: int) -> float:
    return (step[key] - (step["model_cpu"] if key == "cpu" else 0)) / users
