import re
from collections.abc import Callable
from datetime import date, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from ingesting import jsonl, rows
from small_night import ITEMS, NIGHT, TASKS, item

from embedder.errors import InputMissing, PplugError
from llm_jobs.kinds import Kind
from llm_jobs.training.data import TrainConfig
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig, encode_night
from pipelines.evaluate import evaluate_night
from pipelines.generate import generate_night
from pipelines.ingest import ingest_histories
from pipelines.report import Section, cell, night_sections, render, write_report
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.train import PlugChoice, train_job

NEXT = NIGHT + timedelta(days=1)


class Page(HTMLParser):
    """The tables of a report, and every element that is in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.open = list[tuple[str, dict[str, str | None]]](), list[str]()
        self.title, self.tables = "", dict[str, list[list[str]]]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"tr", "th", "td"} and self.title:
            if tag == "tr":
                self.tables[self.title].append([])
            else:
                self.tables[self.title][-1].append("")
        if tag not in {"meta", "rect"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag, "elements are closed in order"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["h2"]:
            self.title = data
            self.tables[data] = []
        elif self.open[-1:] in (["td"], ["th"]):
            self.tables[self.title][-1][-1] += data.strip()


@pytest.fixture(scope="module")
def night(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
) -> Warehouse:
    """Two nights; in the second everything ran."""
    folder = tmp_path_factory.mktemp("report")
    warehouse, plug = Warehouse(folder / "w"), folder / "plug"
    from pipelines.ingest import ingest_tasks

    ingest_histories(warehouse, [jsonl(folder / "a.jsonl", *ITEMS)], NIGHT, kinds)
    train_job(warehouse, plug, PlugChoice("note", NIGHT), generate_config, TrainConfig(epochs=1, held_out=0.0), kinds)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    more = [item("bob", 90, "<b>bold</b>", "red"), item("bob", 91, "", "red")]
    ingest_histories(warehouse, [jsonl(folder / "<script>.jsonl", *more)], NEXT, kinds)
    ingest_tasks(warehouse, [jsonl(folder / "t.jsonl", *TASKS)], NEXT, kinds)
    encode_night(warehouse, NEXT, encode_config, kinds)
    generate_night(warehouse, NEXT, [plug], generate_config, kinds)
    evaluate_night(warehouse, NEXT, kinds, plugs=[plug], config=generate_config)
    return warehouse


def report_of(warehouse: Warehouse, ds: date) -> str:
    with connect(warehouse) as db:
        return render(ds, night_sections(db, ds))


def test_the_report_shows_what_the_tables_hold(night: Warehouse) -> None:
    tables = Page(report_of(night, NEXT)).tables
    assert {row[0]: row[1] for row in tables["What ran"][1:]} == dict.fromkeys(
        ("ingest_histories", "ingest_tasks", "encode", "generate", "evaluate"), "done"
    )
    answers = dict(zip(*tables["Answers"], strict=True))
    assert (answers["kind"], answers["task_count"], answers["default_count"]) == ("note", "6", "1")
    assert [row[2] for row in tables["Refused rows"][1:]] == ["empty_text"]
    evaluated = rows(night, f"select arm, metric, value, low, high from evaluations where ds = '{NEXT}' order by all")
    shown = [[row[1], row[2], *row[3:6]] for row in tables["Evaluation"][1:]]
    assert sorted(shown) == sorted([arm, metric, *map(cell, numbers)] for arm, metric, *numbers in evaluated)
    drift = dict(zip(*tables["Drift"], strict=True))
    assert (drift["previous_ds"], drift["user_count"], drift["changed_user_count"]) == (f"{NIGHT}", "3", "1")
    assert {row[0] for row in tables["Cost"][1:]} == {f"{NIGHT}", f"{NEXT}"}


def test_a_night_without_everything_says_none(night: Warehouse) -> None:
    html = report_of(night, NIGHT)
    tables = Page(html).tables
    assert [title for title, found in tables.items() if not found] == [
        "Answers",
        "Personas",
        "Refused rows",
        "Evaluation",
        "Drift",
        "Personas behind",
    ]
    assert html.count("<p>None.</p>") == 6
    assert {row[0] for row in tables["Cost"][1:]} == {f"{NIGHT}"}


def test_the_file_stands_alone(night: Warehouse) -> None:
    page = Page(report_of(night, NEXT))
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "base", "a", "use"})
    attributes = {name for _, attrs in page.tags for name in attrs}
    assert attributes.isdisjoint({"src", "href", "srcset", "data", "action", "background"})
    assert not re.search(r"https?:|url\(|@import|\bon\w+=", report_of(night, NEXT))


def test_no_user_and_no_text_is_named(night: Warehouse) -> None:
    html = report_of(night, NEXT)
    for word in ("ann", "bob", "cid", "eve", "bold", "boats", "t1", "who knows"):
        assert not re.search(rf"\b{word}\b", html), word


def test_what_comes_from_the_tables_is_escaped() -> None:
    rows = [{"<i>": "<script>alert(1)</script>", "b": "\"&'", "status": "failed"}]
    html = render(NIGHT, [Section("<b>", "&", rows)])
    assert "<script>" not in html
    assert "<i>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "&#34;&amp;&#39;" in html
    assert 'class=" failed"' in html


def test_an_interval_that_is_missing_or_beyond_one_is_drawn_to_scale() -> None:
    interval = {"metric": "mae", "value": 2.0, "low": 1.0, "high": 4.0}
    html = render(NIGHT, [Section("Evaluation", "", [interval, interval | {"low": None, "high": None}])])
    assert html.count("<svg") == 1
    assert '<rect x="25.0" y="2" width="75.0"' in html
    assert "<th>0 to 4</th>" in html


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (0.123456, "0.1235"), (12345.6, "12,346"), (1234567, "1,234,567"), (NIGHT, "2026-11-02"), ("x", "x")],
)
def test_a_value_is_short(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text("old", encoding="utf8")
    write_report(tmp_path / "r.html", NIGHT, [])
    assert "Night of 2026-11-02" in (tmp_path / "r.html").read_text(encoding="utf8")
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PplugError, match=r"r\.html cannot be written \(No such file or directory\): .* --out"):
        write_report(tmp_path / "no" / "r.html", NIGHT, [])


def test_a_night_without_a_run_is_missing(fill: Callable[..., Warehouse]) -> None:
    with pytest.raises(InputMissing, match="no job ran for the night 2020-01-01: run `pplug runs`"):
        report_of(fill(ITEMS), date(2020, 1, 1))
