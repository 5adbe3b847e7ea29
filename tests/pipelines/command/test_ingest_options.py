"""How `pplug ingest` reads a person's own files: its options, one by one, through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Pplug

ROW = {"author": "u", "body": "It rained.", "headline": "Rain", "published": "2026-10-01"}
COLUMNS = "user_id=author,text=body,output=headline,posted_at=published"
TASK = {"task_id": "t", "user_id": "u", "kind": "headline", "queued_at": "2026-11-01"}


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "articles.csv"
    path.write_text("\n".join([",".join(ROW), ",".join(ROW.values())]), encoding="utf8")
    return path


def jsonl(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return str(path)


def stored(pplug: Pplug, columns: str, table: str = "histories") -> list[list[Any]]:
    return [list(row.values()) for row in pplug("sql", f"select {columns} from {table} order by all", "--json").rows]


def test_map_and_kind_name_what_a_file_calls_otherwise(pplug: Pplug, csv: Path) -> None:
    said = pplug("ingest", "histories", "articles.csv", "--map", COLUMNS, "--kind", "headline", "--json")
    assert (said.code, said.err, said.rows[0]["changed"]) == (0, "", 1)
    assert stored(pplug, "user_id, kind, text, output") == [["u", "LaMP_4", "It rained.", "Rain"]]


@pytest.mark.parametrize("wrong", ["author", "user_id=", "=author", "user_id=author,body"])
def test_a_map_that_is_none_is_named(wrong: str, pplug: Pplug, csv: Path) -> None:
    said = pplug("ingest", "histories", "articles.csv", "--map", wrong)
    assert said.code == 2
    assert said.err == f"--map {wrong!r} is not column=column: write for example --map user_id=author,text=body\n"


def test_like_reads_as_a_saved_source_says_and_flags_go_before_it(pplug: Pplug, csv: Path, tmp_path: Path) -> None:
    pairs = ", ".join(
        f'{ours} = "{theirs}"' for ours, _, theirs in (pair.partition("=") for pair in COLUMNS.split(","))
    )
    saved = f'[ingest.articles]\nkind = "paper_title"\nany-year = true\nmap = {{ {pairs} }}\n'
    (tmp_path / "pplug.toml").write_text(saved, encoding="utf8")
    assert pplug("ingest", "histories", "articles.csv", "--like", "articles").code == 0
    words = ("--like", "articles", "--kind", "headline", "--map", "text=headline")
    assert pplug("ingest", "histories", "articles.csv", *words).code == 0
    assert stored(pplug, "kind, text") == [["LaMP_4", "Rain"], ["LaMP_5", "It rained."]]
    said = pplug("ingest", "histories", "articles.csv", "--like", "mails")
    assert (said.code, said.err) == (2, "no [ingest.mails] in pplug.toml: there are articles\n")


def test_sql_reads_the_rows_of_a_query(pplug: Pplug, csv: Path) -> None:
    query = "select author as user_id, body as text, published as posted_at from 'articles.csv'"
    said = pplug("ingest", "histories", "--sql", query, "--kind", "headline", "--json")
    assert (said.code, said.rows[0]["changed"]) == (0, 1)
    assert stored(pplug, "user_id, text, output") == [["u", "It rained.", None]]
    assert pplug("ingest", "histories", "--sql", "select 1 from 'no.csv'").code == 2


def test_any_year_takes_times_of_long_ago(pplug: Pplug, tmp_path: Path) -> None:
    item = {"user_id": "u", "kind": "headline", "posted_at": "1901-02-03", "text": "Rain"}
    file = jsonl(tmp_path / "h.jsonl", item)
    assert pplug("ingest", "histories", file).code == 3
    assert pplug("ingest", "histories", file, "--any-year").code == 0
    assert stored(pplug, "year(posted_at)") == [[1901]]


def test_overwrite_newer_replaces_what_a_later_night_wrote(pplug: Pplug, tmp_path: Path) -> None:
    def ingest(text: str, night: str, *more: str) -> str:
        item = {"user_id": "u", "item_id": "1", "kind": "headline", "posted_at": "2026-10-01", "text": text}
        said = pplug("ingest", "histories", jsonl(tmp_path / "h.jsonl", item), "--ds", night, *more)
        assert said.code == 0
        return said.err

    ingest("new", "2026-11-02")
    assert "1 rows of later nights were left alone: --overwrite-newer" in ingest("old", "2026-11-01")
    assert stored(pplug, "text") == [["new"]]
    assert ingest("old", "2026-11-01", "--overwrite-newer") == ""
    assert stored(pplug, "text") == [["old"]]


def test_several_sources_are_one_and_json_counts_them(pplug: Pplug, csv: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    jsonl(tmp_path / "more" / "a.jsonl", {**ROW, "body": "Sun."}, {**ROW, "body": None})
    words = ("--map", COLUMNS, "--kind", "headline", "--max-reject-rate", "0.5", "--json")
    (row,) = pplug("ingest", "histories", "articles.csv", "more", *words).rows
    assert (row["rows_in"], row["rows_out"], row["rows_rejected"], row["changed"]) == (3, 2, 1, 2)
    assert stored(pplug, "row_id, reason", "rejects") == [["a.jsonl:2", "missing_text"]]


# What is said of files that do not fit


def test_advice_asks_for_a_kind_only_where_none_is_given(pplug: Pplug, csv: Path) -> None:
    without, with_kind = (pplug("ingest", "histories", "articles.csv", *more) for more in ([], ["--kind", "headline"]))
    assert "needed: user_id, kind, posted_at, text; try --map" in without.err
    assert "needed: user_id, posted_at, text; try --map" in with_kind.err
    advised = with_kind.err.split("--map ")[1].split()[0]
    assert pplug("ingest", "histories", "articles.csv", "--kind", "headline", "--map", advised).code == 0


def test_the_columns_of_mails_are_known_in_tasks(pplug: Pplug, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,from,sent,subject,body\n1,u,2026-11-01,Rain,It rained.\n", encoding="utf8")
    said = pplug("ingest", "tasks", "t.csv", "--kind", "mail_subject")
    advised = said.err.split("--map ")[1].split()[0]
    assert sorted(advised.split(",")) == [
        *("queued_at=sent", "reference=subject", "task_id=id", "text=body", "user_id=from"),
    ]


@pytest.mark.parametrize("body", ["It rained.", "Il a plu à Orléans."])
def test_a_file_that_is_not_utf8_names_the_command_that_mends_it(body: str, pplug: Pplug, tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "body": "Jürgen was late."}, {**ROW, "body": body}]
    text = "\n".join(",".join(row.values()) for row in ({name: name for name in ROW}, *rows[1:]))
    (tmp_path / "old.csv").write_text(text, encoding="cp1252")
    count = 1 + (not body.isascii())
    hint = "save it as UTF-8, or convert it with `iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW`"
    said = pplug("init", "--kind", "headline", "--from", "old.csv")
    assert f"{count} would be refused: not_utf8; {hint}\n" in said.err
    said = pplug("ingest", "histories", "old.csv", "--like", "old")
    (line,) = [line for line in said.err.splitlines() if "UTF-8" in line]
    assert line.endswith(f"old.csv: {count} of 2 rows hold text that is not UTF-8: {hint}")
    assert "try --map" not in said.err


def test_a_kind_that_is_not_there_is_wrong_usage(pplug: Pplug, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id\n1\n", encoding="utf8")
    said = pplug("ingest", "tasks", "t.csv", "--kind", "nope")
    assert (said.code, said.err) == (2, "kind 'nope' is not known: `pplug kinds` lists those there are\n")


def test_a_queue_without_times_is_that_of_the_night(pplug: Pplug, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("article_id,byline,section,teaser\n1,u,crime,It rained.\n", encoding="utf8")
    to_night = ("ingest", "tasks", "t.csv", "--kind", "news_category", "--ds", "2026-11-01")
    advised = pplug(*to_night).err.split("--map ")[1].split()[0]
    assert advised == "task_id=article_id,user_id=byline,text=teaser,reference=section"
    assert pplug(*to_night, "--map", advised).code == 0
    rows = pplug("sql", "select queued_at, reference from tasks", "--json").rows
    assert [(row["queued_at"][:10], row["reference"]) for row in rows] == [("2026-11-01", "crime")]


def test_a_column_is_advised_once_and_tasks_need_a_text_or_an_input(pplug: Pplug, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,author,body,category,date\n1,u,It rained.,x,2026-11-01\n", encoding="utf8")
    said = pplug("ingest", "tasks", "t.csv", "--kind", "headline")
    assert "needed: task_id, user_id, input (or text)" in said.err
    advised = said.err.split("--map ")[1].split()[0]
    assert advised == "task_id=id,user_id=author,queued_at=date,text=body"
    assert pplug("ingest", "tasks", "t.csv", "--kind", "headline", "--map", advised).code == 0
    history = pplug("ingest", "histories", "t.csv").err
    assert history.count("=category") == 1


def test_an_input_without_its_marker_is_warned_of_and_taken(pplug: Pplug, tmp_path: Path) -> None:
    inputs = ["secret words", "Shorten the article:  ", "Any words, then article: Rain", None]
    tasks = [{**TASK, "task_id": f"{at}", "input": text, "text": "Rain"} for at, text in enumerate(inputs)]
    citation = {**TASK, "task_id": "c", "kind": "citation", "input": "[1] or [2]?"}
    gone = {"task_id": "gone", "deleted": True}
    said = pplug("ingest", "tasks", jsonl(tmp_path / "t.jsonl", *tasks, citation, gone))
    assert said.code == 0
    headline, cited = said.err.splitlines()
    assert "2 tasks of LaMP_4 have an input without 'article:' and a text behind it" in headline
    assert "write `Generate a headline for the following article: {text}`, or leave `input` out" in headline
    assert "1 tasks of LaMP_1 have an input without 'without explanation.'" in cited
    assert "secret" not in said.err
    assert stored(pplug, "count(*)", "tasks") == [[5]]
