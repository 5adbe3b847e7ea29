"""The commands and the Python of the pages are run from the first to the last, with tiny models."""

import re
import shlex
from pathlib import Path

import pytest
from command_line import Pplug
from pages import blocks, commands

IN_ORDER = ("docs/your_data.md", "docs/nights.md", "docs/tables.md", "docs/kinds.md", "docs/erasure.md")
"""Pages that go on where the one before ended, in one folder."""


def run_page(pplug: Pplug, page: str) -> dict[str, str]:
    """Run every command of a page; what each wrote to stdout."""
    found = dict[str, str]()
    for line in commands(page):
        said = pplug(*shlex.split(line))
        assert said.code == 0, f"{page}: pplug {line}: {said.err}"
        found[line] = said.out
    return found


def run_python(code: str, page: str, encoder: Path, llm: Path) -> None:
    """Run a block of Python, with the tiny models where it trains."""
    named = f"encoder={str(encoder)!r}, llm={str(llm)!r}, llm_dtype='float32', dtype='float32', "
    exec(compile(re.sub(r"(Personalizer\.fit\(\w+, )", rf"\1{named}", code), page, "exec"), {})


def test_the_readme_goes_from_a_csv_to_an_answer(
    tiny_models: Pplug, tmp_path: Path, encoder_folder: Path, llm_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (table,) = blocks("README.md", "csv")
    Path("articles.csv").write_text(table, encoding="utf8")
    said = run_page(tiny_models, "README.md")
    answers = next(out for line, out in said.items() if line.startswith("sql"))
    assert all(user in answers for user in ("mara", "kai"))
    assert {"report.html", "pplug.toml", "plugs"} <= {path.name for path in tmp_path.iterdir()}
    (code,) = blocks("README.md", "python")
    run_python(code, "README.md", encoder_folder, llm_folder)
    assert "mara" in capfd.readouterr().out
    assert (tmp_path / "plugs/from_python/personalizer.json").is_file()


def test_the_pages_run_one_after_the_other(
    tiny_models: Pplug, encoder_folder: Path, llm_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (table,) = blocks("docs/your_data.md", "csv")
    Path("articles.csv").write_text(table, encoding="utf8")
    for page in IN_ORDER:
        if page == "docs/nights.md":
            said = tiny_models("ingest", "tasks", "tasks.jsonl", "--ds", "2026-11-02")
            assert said.code == 0, said.err
        run_page(tiny_models, page)
        for code in blocks(page, "python"):
            run_python(code, page, encoder_folder, llm_folder)
            assert "mara" in capfd.readouterr().out
    forgotten = tiny_models("sql", "select count(*) as rows from histories where user_id = 'mara'", "--json")
    assert forgotten.rows == [{"rows": 0}]
