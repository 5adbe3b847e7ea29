"""What the command line sets before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.command.boundary import State, with_places

PLACES = State(config=Path("a b.toml"), warehouse=Path("w"))


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("no x: run `pplug encode --ds D`", "no x: run `pplug --config 'a b.toml' encode --ds D --warehouse w`"),
        ("`pplug runs` or `pplug check`", "`pplug --config 'a b.toml' runs --warehouse w` or `pplug --config"),
        ("see `pplug encode --help`", "see `pplug encode --help`"),
        ("check `pip install -U pplug`", "check `pip install -U pplug`"),
    ],
)
def test_the_commands_an_error_names_look_where_this_one_was_told_to(line: str, completed: str) -> None:
    assert with_places(line, PLACES).startswith(completed)
    assert with_places(line, State()) == line


GROWTH = """
from pathlib import Path
from pipelines.command.boundary import prepare_environment
prepare_environment()
import torch
from embedder.encoder import return_free_memory
from embedder.linear import projection_class

def megabytes():
    return_free_memory()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

x = torch.ones(500, 32)
project = projection_class(x)(torch.ones(64, 32))
for rows in range(2, 100):
    project(x[:rows])
before = megabytes()
for rows in range(100, 500):
    project(x[:rows])
print(megabytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads the memory of Linux")
def test_matrix_products_of_ever_new_sizes_need_no_more_memory() -> None:
    ours = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"}
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    found = subprocess.run([sys.executable, "-c", GROWTH], env=clean, capture_output=True, text=True, check=True)
    assert float(found.stdout) < 40  # 222 with the caches as torch makes them
