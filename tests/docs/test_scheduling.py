"""What docs/scheduling.md shows is run: lines as cron and the shell read them, units by systemd's own tool."""

import configparser
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pages import PAGES, check_words

PAGE = PAGES["docs/scheduling.md"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def cron_commands() -> list[str]:
    """The commands of the crontab as cron hands them to the shell."""
    (crontab,) = blocks("crontab")
    timed = [line.split(maxsplit=5) for line in crontab.splitlines() if re.match(r"[\d*]", line)]
    assert all(not re.search(r"(?<!\\)%", command) for *_, command in timed), "cron ends the command there"
    return [command.replace(r"\%", "%") for *_, command in timed]


def unit_command() -> str:
    """The command of the service as systemd hands it to the shell."""
    line = next(line for unit in blocks("ini") for line in unit.splitlines() if line.startswith("ExecStart="))
    shell, flag, command = shlex.split(line.removeprefix("ExecStart="))
    assert (shell, flag) == ("/bin/sh", "-c")
    return command.replace("%%", "%").replace("$$", "$")


def dag_command() -> str:
    """The command of the DAG as Airflow hands it to the shell, for the night before today."""
    (dag,) = blocks("python")
    found = re.search(r'bash_command="(.*)"', dag)
    assert found is not None
    return found[1].replace("{{ ds }}", f"{yesterday()}")


def yesterday() -> str:
    return f"{(datetime.now(UTC) - timedelta(days=1)).date()}"


def said_by_shell(command: str, folder: Path) -> list[list[str]]:
    """The words that pplug gets each time a real shell calls it; the folder of the page is ours here."""
    told = folder / "told"
    program = folder / "pplug"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {told}\n', encoding="utf8")
    program.chmod(0o755)
    (folder / "logger").write_text("#!/bin/sh\ncat > /dev/null\n", encoding="utf8")
    (folder / "logger").chmod(0o755)
    ours = command.replace("/opt/pplug", str(folder))
    subprocess.run(["/bin/sh", "-c", ours], check=True, env={"PATH": f"{folder}:/usr/bin:/bin"})
    return [line.split() for line in told.read_text(encoding="utf8").splitlines()]


@pytest.mark.parametrize("source", [*cron_commands(), unit_command(), dag_command()])
def test_the_shell_hands_pplug_the_night_that_ended(source: str, tmp_path: Path) -> None:
    before = yesterday()
    (words,) = said_by_shell(source, tmp_path)
    if "--ds" in words:
        assert words[words.index("--ds") + 1] in {before, yesterday()}  # midnight may pass in between
    else:
        assert words[0] == "expire"
    check_words(words)


def units(folder: Path) -> list[Path]:
    """The units of the page under their names, with the folder and the user of this machine."""
    names = re.findall(r"`/etc/systemd/system/(.+?)`:\n\n```ini", PAGE)
    assert len(names) == len(blocks("ini")) == 2
    for name, text in zip(names, blocks("ini"), strict=True):
        (folder / name).write_text(text.replace("User=pplug", "User=root"), encoding="utf8")
    return [folder / name for name in names]


def test_the_units_are_whole_and_the_timer_starts_the_service(tmp_path: Path) -> None:
    service, timer = (configparser.ConfigParser(interpolation=None, strict=False) for _ in range(2))
    paths = units(tmp_path)
    for parser, path in zip((service, timer), paths, strict=True):
        parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
        parser.read(path)
    assert paths[0].stem == paths[1].stem, "a timer starts the service of its name"
    assert service["Service"]["Type"] == "oneshot"
    assert timer["Timer"]["Persistent"] == "true"
    assert timer["Timer"]["OnCalendar"].endswith(" UTC")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here: apt-get install systemd")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    paths = [str(path) for path in units(tmp_path)]
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False
    )
    ours = [line for line in checked.stderr.splitlines() if "pplug-nightly" in line]
    assert (checked.returncode, ours) == (0, []), checked.stderr
    calendar = next(line for line in Path(paths[1]).read_text().splitlines() if line.startswith("OnCalendar="))
    command = ["systemd-analyze", "calendar", calendar.removeprefix("OnCalendar=")]
    subprocess.run(command, check=True, capture_output=True)
