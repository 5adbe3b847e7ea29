"""What every test runs under: one thread, no network, no settings of the user; in CI the same examples each time."""

import os

import pytest
from hypothesis import settings

for name in [name for name in os.environ if name.startswith("PPLUG_")]:
    del os.environ[name]

# Before torch is imported: later it no longer looks.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="run tests/faults in full, not its short version")
