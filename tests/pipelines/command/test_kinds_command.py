"""A person begins with `pplug kinds` and `pplug init`, and every command that they show works."""

import re
import shlex
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_line import Pplug, Said
from small_night import NOTE

from llm_jobs.kinds import SPOKEN, load_kinds
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse

KINDS = load_kinds()
ARTICLES = "author,body,headline,published\n" + "".join(
    f"{author},It rained on day {day}.,{head} {day},2026-10-{day:02}\n"
    for day in (1, 2, 3)
    for author, head in (("u1", "Rain:"), ("u2", "Wet!"))
)


def write_own_kind(folder: Path) -> None:
    fields = "\n".join(f"{name} = {value!r}" for name, value in NOTE.items())
    (folder / "pplug.toml").write_text(f"[kinds.note]\n{fields}\n[kinds.LaMP_4]\nmax_new_tokens = 9\n", encoding="utf8")


def run_next(pplug: Pplug, said: Said) -> list[Said]:
    """Run every command that `pplug init --json` showed."""
    assert said.code == 0, said.err
    shown = [row["next"] for row in said.rows if "next" in row]
    assert len(shown) == 7
    found = [pplug(*shlex.split(command.removeprefix("pplug ")), "--json") for command in shown]
    assert [each.code for each in found] == [0] * 7, [each.err for each in found]
    return found


def test_every_kind_is_listed_with_both_names(pplug: Pplug, tmp_path: Path) -> None:
    write_own_kind(tmp_path)
    rows = {row["kind"]: row for row in pplug("kinds", "--json").rows}
    assert rows.keys() == {*KINDS, "note"}
    assert {row["also"]: name for name, row in rows.items() if row["also"]} == SPOKEN
    assert rows["note"]["from"] == "pplug.toml"
    assert rows["LaMP_4"]["from"] == "pplug, changed in pplug.toml"
    assert [rows["LaMP_3"][name] for name in ("from", "answers", "metric")] == ["pplug", "one of 5", "rating"]
    assert rows["LaMP_7"]["trains_on"] == "tasks with references"


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_shown_field_by_field_with_a_filled_prompt_under_either_name(name: str, pplug: Pplug) -> None:
    spoken = next(spoken for spoken, known in SPOKEN.items() if known == name)
    said = pplug("kinds", spoken, "--json")
    assert said == pplug("kinds", name, "--json")
    fields = {row["field"]: row for row in said.rows if "field" in row}
    assert fields["metric"]["value"] == KINDS[name].metric
    assert all(row["meaning"] for row in fields.values())
    samples = {row["sample"]: row["text"] for row in said.rows if "sample" in row}
    assert KINDS[name].query_marker in samples["prompt of a task"]
    assert KINDS[name].query(samples["prompt of a task"])
    assert not re.search(r"\{\w+\}", "".join(samples.values()))


def test_a_kind_of_ones_own_is_shown_with_a_filled_prompt(pplug: Pplug, tmp_path: Path) -> None:
    write_own_kind(tmp_path)
    said = pplug("kinds", "note")
    assert said.code == 0
    assert "Which tag? red, blue, green note: A new text" in said.out


def test_a_line_break_that_ends_an_answer_is_seen(pplug: Pplug) -> None:
    (line,) = [line for line in pplug("kinds", "headline").out.splitlines() if line.startswith("stop ")]
    assert line.split()[1] == '"\\n"'


def test_a_kind_that_is_not_there_names_the_next_command(pplug: Pplug) -> None:
    for words in (("kinds", "hedline"), ("init", "--kind", "hedline")):
        said = pplug(*words)
        assert (said.code, said.out) == (2, "")
        assert "kind 'hedline' is not known: `pplug kinds` lists" in said.err


# A folder to begin in


@pytest.mark.parametrize("kind", ["rating", "citation"])
def test_what_init_writes_runs_to_an_answer(kind: str, tiny_models: Pplug, tmp_path: Path) -> None:
    """One kind learns from histories, the other from tasks."""
    *_, answers, _, report = run_next(tiny_models, tiny_models("init", "--kind", kind, "--json"))
    assert (tmp_path / "report.html").is_file(), report.err
    assert {row["user_id"] for row in answers.rows} == {"ann", "bob", "cem"}
    settings = tomllib.loads((tmp_path / "pplug.toml").read_text(encoding="utf8"))
    assert settings["train"] == {"kind": kind, "plug": f"plugs/{kind}"}
    today = datetime.now(UTC).date().isoformat()
    assert tiny_models("generate", "--ds", today, "--dry-run").code == 0, "pplug.toml names the plug"


@pytest.mark.parametrize("name", KINDS)
def test_the_sample_of_every_kind_is_taken_whole_and_without_a_warning(name: str, pplug: Pplug, tmp_path: Path) -> None:
    assert pplug("init", "--kind", name).code == 0
    for table in ("histories", "tasks"):
        said = pplug("ingest", table, f"{table}.jsonl", "--json")
        assert (said.code, said.err, said.rows[0]["rows_rejected"]) == (0, "", 0)
        assert said.rows[0]["changed"] == said.rows[0]["rows_in"] > 2


def test_init_leaves_files_that_are_there_and_still_shows_commands_that_run(tiny_models: Pplug, tmp_path: Path) -> None:
    write_own_kind(tmp_path)
    (tmp_path / "articles.csv").write_text(ARTICLES, encoding="utf8")
    before = (tmp_path / "pplug.toml").read_text(encoding="utf8")
    said = tiny_models("init", "--kind", "note", "--from", "articles.csv", "--json")
    states = {row["file"]: row["state"] for row in said.rows if "file" in row}
    assert states == {"pplug.toml": "left as it is", "tasks.jsonl": "written"}
    assert (tmp_path / "pplug.toml").read_text(encoding="utf8") == before
    again = tiny_models("init", "--kind", "note", "--from", "articles.csv", "--json")
    assert {row["state"] for row in again.rows if "file" in row} == {"left as it is"}
    assert [row for row in again.rows if "next" in row] == [row for row in said.rows if "next" in row]
    assert tiny_models(*shlex.split(said.rows[2]["next"])[1:]).code == 0


def test_a_dry_run_of_init_writes_nothing(pplug: Pplug, tmp_path: Path) -> None:
    planned, done = (pplug("init", "--kind", "headline", "--json", *more) for more in (["--dry-run"], []))
    assert {row["state"] for row in planned.rows if "file" in row} == {"to be written"}
    assert planned.out.replace("to be written", "written") == done.out
    assert len(list(tmp_path.iterdir())) == 3


def test_init_finds_the_columns_of_a_file(pplug: Pplug, tmp_path: Path) -> None:
    (tmp_path / "my articles.csv").write_text(ARTICLES + "u1,No date.,x,soon\n", encoding="utf8")
    said = pplug("init", "--kind", "headline", "--from", "my articles.csv", "--json")
    assert "of its first 7 rows 1 would be refused: bad_time" in said.err
    settings = tomllib.loads((tmp_path / "pplug.toml").read_text(encoding="utf8"))
    columns = {"user_id": "author", "text": "body", "output": "headline", "posted_at": "published"}
    assert settings["ingest"] == {"my_articles": {"kind": "headline", "map": columns}}

    for command in [row["next"] for row in said.rows if "next" in row][:2]:
        assert pplug(*shlex.split(command)[1:], "--max-reject-rate", "0.2").code == 0
    with connect(Warehouse(tmp_path / "warehouse")) as db:
        assert db.sql("select distinct kind from histories").fetchall() == [("LaMP_4",)]


@pytest.mark.parametrize(
    "header", ["from,sent,subject,body", "writer,day,headline,article", "Author,Published,Title,Text"]
)
def test_init_knows_what_people_call_columns(header: str, pplug: Pplug, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(f"{header}\nann,2026-10-01,Rain,It rained.\n", encoding="utf8")
    said = pplug("init", "--kind", "mail_subject", "--from", "f.csv", "--dry-run")
    assert (said.code, all(column in said.err for column in header.split(",")[:3])) == (0, True), said.err


@pytest.mark.parametrize(
    ("kind", "output"), [("news_category", "category"), ("rating", "stars"), ("headline", "title")]
)
def test_init_takes_what_the_kind_wants_for_the_output(kind: str, output: str, pplug: Pplug, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(
        "author,date,category,stars,title,text\nann,2026-10-01,crime,5,Rain,It rained.\n", "utf8"
    )
    said = pplug("init", "--kind", kind, "--from", "f.csv", "--dry-run")
    assert f"output is {output}" in said.err


def test_init_takes_the_labels_of_a_file_where_a_kind_has_others(tiny_models: Pplug, tmp_path: Path) -> None:
    rows = [("Space", 3), ('The "Yard"', 2), ("space", 1), ("crime", 1)]
    lines = [f'ann,2026-10-0{day},"{label.replace(chr(34), chr(34) * 2)}",Rain {day}.' for label, day in rows]
    (tmp_path / "f.csv").write_text("\n".join(["byline,date,section,teaser", *lines]), "utf8")
    said = tiny_models("init", "--kind", "news_category", "--from", "f.csv")
    assert "its 3 labels are not all of news_category's own" in said.err
    settings = tomllib.loads((tmp_path / "pplug.toml").read_text("utf8"))
    assert settings["kinds"] == {"LaMP_2N": {"choices": ["Space", 'The "Yard"', "crime"]}}
    run_next(tiny_models, said := tiny_models("init", "--kind", "news_category", "--from", "f.csv", "--json"))
    answers = tiny_models("sql", "select distinct output from outputs", "--json").rows
    assert {row["output"] for row in answers} <= {"Space", 'The "Yard"', "crime"}


def test_init_asks_for_the_column_it_does_not_find_and_takes_it(pplug: Pplug, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("author,body,grade,week\nu,Rain.,5,2026-10-01\n", encoding="utf8")
    words = ("init", "--kind", "rating", "--from", "a.csv")
    said = pplug(*words)
    assert (said.code, said.out) == (2, "")
    assert "a.csv: which column is posted_at and which is output? Columns found: author, body, grade, week" in said.err
    assert "--map posted_at=COLUMN,output=COLUMN" in said.err
    assert not (tmp_path / "pplug.toml").exists()
    assert pplug(*words, "--map", "posted_at=week,output=grade").code == 0
    assert pplug("ingest", "histories", "a.csv", "--like", "a").code == 0


@pytest.mark.parametrize(
    ("name", "code", "told"), [("no.csv", 4, "no file"), ("-", 2, "read twice"), ("empty.csv", 2, "has no columns")]
)
def test_init_needs_a_file_to_look_at(name: str, code: int, told: str, pplug: Pplug, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    said = pplug("init", "--kind", "rating", "--from", name)
    assert (said.code, said.out) == (code, "")
    assert told in said.err
