"""The requirements of vLLM on GPUs: they name what pplug needs, and pip finds that they fit together."""

import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "docs" / "requirements-vllm-gpu.txt"


def pinned(path: Path) -> dict[str, str]:
    """Version of each package of a requirements file, by its normalised name."""
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf8").splitlines())
    return {normalised(name): version for name, equals, version in (line.partition("==") for line in lines) if equals}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_environment_has_all_that_pplug_needs() -> None:
    versions = pinned(REQUIREMENTS)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]["dependencies"]
    for requirement in map(Requirement, needed):
        if requirement.name != "transformers":  # vLLM wants an older one
            assert requirement.specifier.contains(versions[normalised(requirement.name)]), requirement
    assert versions["torch"] == pinned(ROOT / "constraints.txt")["torch"]


def is_offline() -> bool:
    try:
        socket.create_connection(("pypi.org", 443), timeout=2).close()
    except OSError:
        return True
    return False


@pytest.mark.skipif(
    "ASK_PACKAGE_INDEX" not in os.environ, reason="asks a package index, for minutes: make requirements"
)
def test_pip_finds_that_the_requirements_fit_together() -> None:
    if is_offline():
        pytest.skip("offline: pip cannot ask the package index")
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "-r", REQUIREMENTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
