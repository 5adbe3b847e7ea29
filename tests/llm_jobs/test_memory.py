"""The memory that a process may take is that of its own control group, wherever that lies."""

from pathlib import Path

import pytest

from llm_jobs.memory import half_of_free_memory

HOST = "MemTotal: 64000000 kB\nMemAvailable:   8000000 kB\n"


def limit(folder: Path, most: str, used: int, cached: int = 0, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{most}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {cached}\n")


def half(tmp_path: Path, own: str) -> int:
    (tmp_path / "meminfo").write_text(HOST)
    (tmp_path / "own").write_text(own)
    return half_of_free_memory("cpu", tmp_path / "meminfo", tmp_path / "cgroup", tmp_path / "own")


@pytest.mark.parametrize(
    ("own", "folder", "version"),
    [
        ("0::/\n", "", 2),  # a container
        ("0::/system.slice/pplug.service\n", "system.slice/pplug.service", 2),
        ("0::/user.slice/a.slice/b.scope\n", "user.slice", 2),  # a limit further up
        ("5:devices:/\n4:memory:/jobs/1\n0::/\n", "memory/jobs/1", 1),
        ("4:cpu,memory:/jobs/1\n", "memory/jobs", 1),
        ("4:memory:/docker/0a1b\n", "memory", 1),  # the host's name of a container, seen from inside
        ("4:cpu:/\n0::/jobs/1\n", "unified/jobs/1", 2),
    ],
)
def test_the_limit_of_the_own_group_counts(own: str, folder: str, version: int, tmp_path: Path) -> None:
    assert half(tmp_path, own) == 4_000_000 << 10
    limit(tmp_path / "cgroup" / folder, "9000", 5000, version=version)
    assert half(tmp_path, own) == 2000
    limit(tmp_path / "cgroup" / folder, "9000", 5000, cached=3000, version=version)
    assert half(tmp_path, own) == 3500  # what is only cached goes when memory is asked for


def test_the_tightest_of_nested_limits_counts_and_other_groups_do_not(tmp_path: Path) -> None:
    own = "0::/a/b\n"
    limit(tmp_path / "cgroup/a", "9000", 5000)
    limit(tmp_path / "cgroup/a/b", "max", 5000)
    limit(tmp_path / "cgroup/other", "100", 50)
    assert half(tmp_path, own) == 2000
    limit(tmp_path / "cgroup/a/b", "6000", 5000)
    assert half(tmp_path, own) == 500
    limit(tmp_path / "cgroup/a/b", "6000", 7000)
    assert half(tmp_path, own) == 0
