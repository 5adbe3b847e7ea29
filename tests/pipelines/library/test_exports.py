"""What the packages export is there, typed, and costs nothing until it is used."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

PACKAGES = ("embedder", "llm_jobs", "pipelines")


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_exported_is_there_and_documented(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        assert (getattr(module, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing
    assert (Path(module.__file__ or "").parent / "py.typed").is_file()


def test_importing_the_packages_loads_no_library() -> None:
    heavy = ("torch", "transformers", "duckdb", "deltalake", "apache_beam", "narwhals", "pandas")
    code = f"import sys, embedder, llm_jobs, pipelines; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_workers_are_made_from_says_nothing_of_libraries() -> None:
    done = subprocess.run([sys.executable, "-c", "import pipelines.nights.preloaded"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
