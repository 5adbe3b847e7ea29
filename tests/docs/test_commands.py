"""Every command that the README and a page of docs/ show is there, with its options and values."""

import re
import shlex
from itertools import groupby

import pytest
from pages import PAGES, ROOT, check_words, commands, shown


@pytest.mark.parametrize(("page", "line"), list(shown()))
def test_every_command_shown_is_taken(page: str, line: str) -> None:
    check_words(shlex.split(line), page)


def test_a_command_that_is_not_there_fails() -> None:
    with pytest.raises(AssertionError, match="shows pplug retired, which is not there"):
        check_words(["retired", "--ds", "2026-11-01"])
    with pytest.raises(AssertionError, match="shows pplug ingest retired, which is not there"):
        check_words(["ingest", "retired"])


@pytest.mark.parametrize("words", [["runs", "--retired"], ["encode", "--ds", "yesterday"], ["forget"]])
def test_options_and_values_that_are_not_taken_fail(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"No such option|not a date|Missing parameter|yesterday"):
        check_words(words)


def test_every_page_that_shows_commands_is_looked_at() -> None:
    assert {page for page, _ in groupby(shown(), key=lambda pair: pair[0])} >= {"README.md", "docs/results/headline.md"}
    assert len(commands("README.md")) >= 8


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    readme = PAGES["README.md"]
    assert len(readme.encode()) <= 8 * 1024
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", readme)]
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
