"""What a user of the wheel gets; `make wheel-demo` runs the whole demo from one."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("embedder", "llm_jobs", "pipelines", "sql")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(ROOT)], check=True)
    return next(folder.glob("pplug-*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_all_our_files_and_no_others(names: set[str]) -> None:
    ours = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".sql", ".toml", ".html", ".css", ".js"} or path.name == "py.typed"
    }
    assert {name for name in names if ".dist-info/" not in name} == ours - {"pipelines/command/entry.py"} | {
        "pplug_command.py"
    }
    assert {"sql/task_coverage.sql", "llm_jobs/kinds/LaMP_2N.toml", "pipelines/sample.py"} <= ours


def test_the_wheel_holds_the_licence_and_the_command(wheel: Path, names: set[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(name for name in names if name.endswith(".dist-info/METADATA")).removesuffix("METADATA")
        assert b"Version 2.0, January 2004" in archive.read(f"{info}licenses/LICENSE")
        assert "pplug = pplug_command:main" in archive.read(f"{info}entry_points.txt").decode()
        assert "License-Expression: Apache-2.0" in archive.read(f"{info}METADATA").decode()


def test_the_unpacked_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "warehouse").mkdir()
    code = (
        "import sys, pipelines.cli; print(pipelines.cli.__file__, file=sys.stderr)\n"
        "for line in sys.argv[1:]: print('code', pipelines.cli.main(line.split()))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, "demo --dry-run --json", "query task_coverage", "check"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )
    codes = [line for line in said.stdout.splitlines() if line.startswith("code")]
    assert (said.returncode, codes) == (0, ["code 0"] * 3), said.stderr
    assert said.stderr.startswith(str(tmp_path / "site"))


def test_a_package_of_the_same_name_is_told_with_its_place(tmp_path: Path) -> None:
    for name in ("pipelines", "embedder"):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "__init__.py").touch()
    entry = ROOT / "pipelines/command/entry.py"
    code = f"import runpy, sys; sys.exit(runpy.run_path({str(entry)!r})['main']())"
    for name in ("pipelines", "embedder", ""):
        path = os.pathsep.join([*([str(tmp_path / name)] if name else []), str(ROOT)])
        said = subprocess.run(
            [sys.executable, "-c", code, "--version"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path},
        )
        if name:
            place = tmp_path / name / name
            assert said.stderr.startswith(f"Python finds another package {name} in {place} before that of pplug: ")
            assert (said.returncode, said.stderr.count("\n")) == (1, 1)
        else:
            assert (said.returncode, said.stdout[:6]) == (0, "pplug ")


def test_every_dependency_has_its_tested_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    extras = project["optional-dependencies"]
    assert "pplug[compare,docs]" in extras["dev"]
    wanted = {*project["dependencies"], *extras["dev"], *extras["compare"], *extras["docs"]} - {"pplug[compare,docs]"}
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf8").splitlines()
        if not line.startswith("#")
    }
    names = {text.replace(">", " ").replace("=", " ").replace("<", " ").replace("[", " ").split()[0] for text in wanted}
    assert {name.lower().replace("_", "-") for name in names} <= pinned


def test_the_constraints_name_versions_and_no_places() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf8").splitlines():
        assert line.startswith("#") or line.count("==") == 1
        assert "/" not in line.partition("#")[0]
        assert "+" not in line.partition("#")[0], "a local version is on no public index"
