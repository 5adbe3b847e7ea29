"""Several people at one warehouse: those who may write work side by side, those who may only read can ask."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from small_night import ITEMS, NIGHT

from embedder.errors import PplugError
from embedder.models import default_cache, model_folder
from llm_jobs.kinds import Kind
from pipelines.nights.runs import Excludes, recorded_run
from pipelines.tables.warehouse import Warehouse

ROOT = Path(__file__).parent.parent.parent
GROUP = 64_321

AS_ANOTHER = """
import colorsys, json, os, sys, tempfile  # rich loads the first late
user, group, commands = map(json.loads, sys.argv[1:])
from pipelines.cli import main
with tempfile.TemporaryDirectory() as elsewhere, open(os.devnull, "w") as nobody:
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr, tempfile.tempdir = nobody, nobody, elsewhere
    for words in commands:
        at = words.index("--warehouse") + 1
        main([*words[:at], elsewhere, *words[at + 1:]])
    sys.stdout, sys.stderr, tempfile.tempdir = out, err, None
os.setgroups([])
os.setgid(group)
os.setuid(user)
os.umask(0o002)
sys.exit(next(filter(None, map(main, commands)), 0))
"""
"""Commands as another user, up to the first that fails.

They first run somewhere else, as that user may be unable to read what they import.
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as other users")


def as_user(user: int, group: int, *commands: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_ANOTHER, *map(json.dumps, (user, group, commands))],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(ROOT), "HOME": "/nonexistent"},
    )


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that a group may write to, and that everybody may reach: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        yield shared_folder(Path(name))


def shared_folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, 0, GROUP)
    shared.chmod(0o2775)
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(map(json.dumps, ITEMS)), encoding="utf8")
    file.chmod(0o644)
    (tmp_path / "pplug.toml").write_text('[kinds.note]\nmetric = "rouge"\nprompt = "{text}"\nmax_new_tokens = 4\n')
    return shared


def ingest(place: Path, *more: str) -> tuple[str, ...]:
    files = (str(place.parent / "items.jsonl"), "--warehouse", str(place / "w"), "--ds", str(NIGHT), *more)
    return ("--config", str(place.parent / "pplug.toml"), "ingest", "histories", *files)


def test_two_users_of_a_group_write_to_one_warehouse_and_a_third_reads(place: Path) -> None:
    for user in (64_001, 64_002):
        said = as_user(user, GROUP, ingest(place))
        assert said.returncode == 0, said.stderr
    assert not [path for path in place.rglob("*") if path.is_file() and path.stat().st_mode & 0o664 != 0o664]
    with recorded_run(Warehouse(place / "w"), "encode", NIGHT, {}, Excludes.SAME_NIGHT):
        questions = (["runs"], ["query", "night_cost"], ["check"], ["sql", "select count(*) from histories"])
        asked = [[*words, "--json", "--warehouse", str(place / "w")] for words in questions]
        said = as_user(64_003, 64_003, *asked)
        assert said.returncode == 0, said.stderr
        rows: list[dict[str, Any]] = [json.loads(line) for line in said.stdout.splitlines()]
        assert [row["status"] for row in rows if "status" in row] == ["running", "done", "done"]
        assert rows[-1] == {"count_star()": len(ITEMS)}
    said = as_user(64_003, 64_003, ingest(place))
    assert (said.returncode, said.stderr.count("\n")) == (1, 1), said.stderr
    assert "cannot be written (Permission denied)" in said.stderr
    assert "forget" not in said.stderr


def test_a_plug_can_be_read_by_whom_the_umask_says(plug: Path, kinds: dict[str, Kind]) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in plug.iterdir()}
    assert modes == {0o666 & ~umask()}


def umask() -> int:
    found = os.umask(0o022)
    os.umask(found)
    return found


def test_without_a_home_the_variable_that_helps_is_named(tmp_path: Path) -> None:
    code = (
        "import os, platformdirs.unix\n"
        "from embedder.models import default_cache\n"
        "os.setuid(64009)\n"
        "print(default_cache())"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    env["PYTHONPATH"] = str(ROOT)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env, cwd="/")
    assert "PplugError: this user has no home folder" in said.stderr
    assert "set PPLUG_CACHE" in said.stderr
    (tmp_path / "file").write_text("")
    with pytest.raises(PplugError, match=r"file/pplug cannot be made \(Not a directory\): set PPLUG_CACHE"):
        model_folder("smollm2", tmp_path / "file")


def test_a_home_gives_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_cache() == tmp_path / "cache"
