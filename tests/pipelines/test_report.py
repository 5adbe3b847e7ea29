import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest
from ingesting import jsonl
from one_night import encode_night, generate_night
from report_browser import opened
from small_night import ITEMS, NIGHT, TASKS, item, task

from embedder.errors import InputMissing, PplugError
from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig
from pipelines.encode import EncodeConfig
from pipelines.evaluate import evaluate_night
from pipelines.ingest import ingest_histories, ingest_tasks
from pipelines.report.attention import headline, needs_attention
from pipelines.report.charts import charts_of
from pipelines.report.night import night_numbers
from pipelines.report.page import library, number, render, tiles_of, trend, write_page
from pipelines.report.personas import persona_map
from pipelines.tables.views import connect, run_sql
from pipelines.tables.warehouse import Warehouse

NEXT = NIGHT + timedelta(days=1)
SCRIPT = "<script>document.title = 'taken over'</script>"


@pytest.fixture(scope="module")
def night(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
    train_notes: Callable[..., object],
) -> Warehouse:
    """Two nights; in the second everything ran."""
    folder = tmp_path_factory.mktemp("report")
    warehouse, plug = Warehouse(folder / "w"), folder / "plug"
    ingest_histories(warehouse, [jsonl(folder / "a.jsonl", *ITEMS)], NIGHT, kinds)
    train_notes(warehouse, plug)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    more = [item("bob", 90, "<b>bold</b>", "red"), item("bob", 91, "", "red")]
    ingest_histories(warehouse, [jsonl(folder / "<script>.jsonl", *more)], NEXT, kinds)
    ingest_tasks(warehouse, [jsonl(folder / "t.jsonl", *TASKS, task("t7", "bob", SCRIPT, "blue"))], NEXT, kinds)
    encode_night(warehouse, NEXT, encode_config, kinds)
    generate_night(warehouse, NEXT, [plug], generate_config, kinds)
    evaluate_night(warehouse, NEXT, kinds, plugs=[plug], config=generate_config)
    return warehouse


def numbers_of(warehouse: Warehouse, ds: date, examples: int = 0):  # noqa: ANN201  a NightNumbers
    with connect(warehouse) as db:
        return night_numbers(db, ds, examples)


@pytest.fixture(scope="module")
def file(night: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the second night, with every answer as an example."""
    path = tmp_path_factory.mktemp("html") / "r.html"
    write_page(path, render(numbers_of(night, NEXT, examples=10)))
    return path


def test_every_chart_is_drawn_without_a_word_fits_a_telephone_and_is_dark_on_screen_alone(file: Path) -> None:
    with opened(file, width=390, color_scheme="dark") as (page, said):
        assert said == []
        assert page.locator(".chart").count() >= 7
        assert page.locator(".chart svg").count() == page.locator(".chart").count()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        colour = "getComputedStyle(document.{}).{}".format
        colours = f"[{colour('body', 'backgroundColor')}, {colour('querySelector(`svg text`)', 'fill')}]"
        assert page.evaluate(colours) == ["rgb(20, 24, 28)", "rgb(230, 234, 238)"]
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate(colours) == ["rgb(255, 255, 255)", "rgb(29, 35, 41)"]
        assert said == []


def test_hovering_shows_values_search_finds_rows_and_a_script_stays_text(file: Path) -> None:
    with opened(file) as (page, said):
        page.locator("#map svg path[aria-roledescription=circle]").first.hover()
        page.wait_for_selector("#vg-tooltip-element.visible")
        assert "cosine to the nearest" in page.locator("#vg-tooltip-element").inner_text()
        assert page.locator("article:visible").count() == 7
        page.keyboard.press("/")
        page.keyboard.type("taken OVER")
        assert page.locator("article:visible").count() == 1
        assert page.locator("#found").inner_text() == "1 found"
        assert SCRIPT in page.locator("article:visible").inner_text()
        assert page.title() == f"pplug, night of {NEXT}"
        page.keyboard.press("Escape")
        assert page.locator("article:visible").count() == 7
        assert page.pdf(format="A4").startswith(b"%PDF")
        assert said == []


def test_the_file_stands_alone_and_is_small(file: Path) -> None:
    html = file.read_text(encoding="utf8")
    assert len(html) < 2_000_000
    own = html.replace(library().replace("</script", "<\\/script"), "")
    assert len(own) < 100_000
    assert not re.search(r"\b(src|href|action)=|url\(|@import", own)
    assert re.findall(r"https?://[^\"\s]+", own) == ["https://vega.github.io/schema/vega-lite/v6.4.1.json"] * own.count(
        "$schema"
    )


def test_no_user_and_no_text_is_named_unless_examples_are_wanted(night: Warehouse, file: Path) -> None:
    html = render(numbers_of(night, NEXT)).replace(library().replace("</script", "<\\/script"), "")
    for word in ("ann", "bob", "cid", "eve", "bold", "boats", "t1", "who knows"):
        assert not re.search(rf"\b{word}\b", html), word
    assert re.search(r"\bann\b", file.read_text(encoding="utf8"))


def test_the_numbers_are_those_of_the_tables(night: Warehouse) -> None:
    numbers = numbers_of(night, NEXT)
    tiles = {tile.name: tile for tile in tiles_of(numbers)}
    assert tiles["tasks answered"].value == "7"
    assert tiles["with a persona"].value == "86%"
    assert [row["reason"] for row in numbers.rejects] == ["empty_text"]
    assert {row["arm"] for row in numbers.quality} == {"own", "other", "default", "none"}
    charts = charts_of(numbers)
    funnel = (
        {row["step"]: row["rows"] for row in charts["funnel"]["layer"][0]["data"]["values"]}
        if ("data" in charts["funnel"]["layer"][0])
        else {row["step"]: row["rows"] for row in charts["funnel"]["data"]["values"]}
    )
    assert (funnel["tasks queued"], funnel["answered"], funnel["answered with a persona"]) == (7, 7, 6)
    assert {"map", "drift", "time"} <= set(charts)
    assert json.dumps(charts)


def test_every_compared_method_has_a_colour_and_one_slice_alone_is_no_chart(night: Warehouse) -> None:
    numbers = numbers_of(night, NEXT)
    own = next(row for row in numbers.quality if row["arm"] == "own")
    compared = replace(numbers, quality=[own, {**own, "arm": "bm25_4"}, {**own, "arm": "mine"}])
    drawn = charts_of(compared)["quality-0"]["layer"][0]["encoding"]["color"]["scale"]
    assert drawn["domain"] == ["your users' own personas", "4 best items by BM25 in the prompt", "mine"]
    assert len(set(drawn["range"])) == 2
    slices = [{**own, "slice": name} for name in ("history 1-3", "history 4-15")]
    assert "slice-0" in charts_of(replace(numbers, slices=slices))
    alone = replace(numbers, slices=slices[:1])
    assert "slice-0" not in charts_of(alone)
    assert "By the length of the history" not in render(alone)


def test_answers_that_are_empty_cut_or_repeat_themselves_are_counted() -> None:
    with duckdb.connect() as db:
        db.sql(
            "create table outputs as select 'k' as kind, *, false as is_shortened, 3 as output_tokens, -1.0 as score,"
            " '2026-11-01'::date as ds from (values (' ', 'eos'), ('a b a b a b a b', 'length'), ('a b', 'eos'))"
            " as answers (output, finish_reason)"
        )
        (row,) = run_sql(db, "report/answer_facts", {"ds": None}).to_pylist()
    counts = {name: row[f"{name}_count"] for name in ("answer", "empty", "length", "repeating")}
    assert counts == {"answer": 3, "empty": 1, "length": 1, "repeating": 1}


def test_the_top_says_what_needs_a_look_and_what_to_type(night: Warehouse) -> None:
    numbers = numbers_of(night, NEXT)
    found = needs_attention(numbers)
    colour, sentence = headline(numbers, found)
    assert (colour, sentence[:15]) == ("look", "Done, but one t")
    assert "fewer than 20 users" in found[-1].told
    assert found[-1].command == f"pplug ingest tasks FILE --ds {NEXT}"
    failed = [{**numbers.runs[0], "status": "failed"}]
    broken = replace(numbers, runs=failed)
    assert headline(broken, needs_attention(broken)) == (
        "bad",
        f"Something went wrong: {failed[0]['job']} is failed.",
    )


def test_a_night_of_which_little_is_known_is_a_report_too(night: Warehouse) -> None:
    numbers = numbers_of(night, NIGHT)
    html = render(numbers)
    assert "No task was answered this night." in html
    assert set(charts_of(numbers)) == {"funnel", "map", "time", "tokens"}


def test_the_map_keeps_near_personas_near() -> None:
    vectors = {"a": [1.0, 0.0, 0.0], "b": [0.99, 0.14, 0.0], "c": [0.0, 0.0, 1.0]}
    rows = [{"user_id": user, "persona": vector, "item_count": 3} for user, vector in vectors.items()]
    places = {row["user"]: (row["x"], row["y"]) for row in persona_map(rows, named=True)}
    assert abs(places["a"][0] - places["b"][0]) < abs(places["a"][0] - places["c"][0])
    assert "user" not in persona_map(rows, named=False)[0]
    assert persona_map(rows[:2], named=False) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.123456, "0.123"), (12345.6, "12,346"), (1234567, "1,234,567"), (NIGHT, "2026-11-02"), ("x", "x")],
)
def test_a_value_is_short(value: object, shown: str) -> None:
    assert number(value) == shown


def test_a_trend_takes_two_nights() -> None:
    assert trend([1.0]) == ""
    assert trend([0.0, 2.0, 1.0]) == "0.0,22.0 50.0,2.0 100.0,12.0"


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text("old", encoding="utf8")
    write_page(tmp_path / "r.html", "new")
    assert (tmp_path / "r.html").read_text(encoding="utf8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PplugError, match=r"r\.html cannot be written \(No such file or directory\): .* --out"):
        write_page(tmp_path / "no" / "r.html", "new")


def test_a_night_without_a_run_is_missing(fill: Callable[..., Warehouse]) -> None:
    with pytest.raises(InputMissing, match="no job ran for the night 2020-01-01: run `pplug runs`"):
        numbers_of(fill(ITEMS), date(2020, 1, 1))
