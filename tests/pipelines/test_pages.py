"""The commands and the Python of the pages are run from the first to the last, with tiny models."""

import re
import shlex
from pathlib import Path

import pytest
from command_line import Pplug
from pages import blocks, commands

IN_ORDER = ("docs/your_data.md", "docs/nights.md", "docs/tables.md", "docs/kinds.md", "docs/erasure.md")
"""Pages that go on where the one before ended, in one folder."""


CSV = "id,author,published,headline,body\n1,ann,2026-10-02,Rain again,It rained again on Monday.\n"
OTHER_CSV = "author,day,body\nbob,2026-10-02,It snowed.\n"


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


def test_the_rows_and_commands_of_the_page_on_files_are_taken(pplug: Pplug, tmp_path: Path) -> None:
    (lines,) = blocks("docs/data.md", "json")
    item, task = lines.splitlines()
    (settings,) = blocks("docs/data.md", "toml")
    for name, text in {"h.jsonl": item, "t.jsonl": task, "articles.csv": CSV, "a.csv": OTHER_CSV}.items():
        (tmp_path / name).write_text(text, encoding="utf8")
    (tmp_path / "pplug.toml").write_text(settings, encoding="utf8")
    shown = [line.partition(" #")[0].strip() for line in commands("docs/data.md")]
    whole, mapped, queried = (line for line in shown if line.startswith("ingest histories"))
    runs = [whole.replace("SOURCE...", "h.jsonl"), mapped, queried, "ingest histories articles.csv --like articles"]
    runs.append(next(line for line in shown if line.startswith("ingest tasks")).replace("SOURCE...", "t.jsonl"))
    for line in runs:
        said = pplug(*shlex.split(line), "--json")
        assert (said.code, said.rows[0]["rows_out"], said.rows[0]["rows_rejected"]) == (0, 1, 0), (line, said.err)
    found = pplug("sql", "select user_id from histories order by user_id", "--json").rows
    assert [row["user_id"] for row in found] == ["ann", "bob", "u7"]
