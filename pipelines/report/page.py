"""Put numbers and charts into one HTML file, with the library that draws them inside."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from embedder.errors import PplugError
from pipelines.command.cells import duration
from pipelines.report.attention import headline, needs_attention
from pipelines.report.charts import charts_of
from pipelines.report.night import NightNumbers
from pipelines.tables import Row
from pipelines.verdicts.words import metric_words

GLOSSARY: Final = {
    "persona": "what is kept of a user's history: one vector for each item, or for groups of similar ones.",
    "plug": "the small trained part that turns a persona and a task into something the language model reads.",
    "your users' own personas": "each task answered with the persona of its own user; this is what went out.",
    "somebody else's persona": "the same tasks with the personas of other users, five draws. If this is as good, "
    "answers are not personal.",
    "the persona of a new user": "the same tasks as for a user without a history.",
    "the language model alone": "the same tasks without the plug.",
    "95% interval": "where the value would lie in 95 of 100 nights with other users like these.",
    "drift": "the cosine of a persona and that of the night before: 1 is unchanged.",
    "rejects": "rows that were refused, each with a reason; rows in = rows out + rejects.",
    "tokens": "pieces of words, as models count text.",
}


@dataclass(frozen=True)
class Tile:
    """A number with its trend."""

    name: str
    value: str
    trend: str  # points of a polyline, 100 wide and 24 high; empty with fewer than two nights


def render(night: NightNumbers) -> str:
    """The report as HTML; whatever comes from the tables is escaped."""
    found = needs_attention(night)
    colour, sentence = headline(night, found)
    charts = charts_of(night)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template("page.html").render(
        night=night,
        colour=colour,
        sentence=sentence,
        attention=found,
        tiles=tiles_of(night),
        charts=charts,
        metric_words=metric_words,
        plug_facts=plug_facts,
        glossary=GLOSSARY,
        library=Markup(library().replace("</script", "<\\/script")),
    )


def write_page(path: Path, text: str) -> None:
    """Write the report; the file appears whole or not at all. Raises PplugError if the file cannot be written."""
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        fresh.write_text(text, encoding="utf8")
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise PplugError(f"{path} cannot be written ({error.strerror}): name another file with --out") from error


@cache
def library() -> str:
    """Vega, Vega-Lite and vega-embed in one script, from the package `vl-convert-python`."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def tiles_of(night: NightNumbers) -> list[Tile]:
    """What a look at the night begins with, over the last nights."""
    nights = sorted({row["ds"] for row in (*night.coverage, *night.cost)})

    def tile(name: str, values: dict[Any, float], form: str) -> Tile | None:
        if night.ds not in values:
            return None
        if form == "time":
            return Tile(name, duration(values[night.ds]), trend([values[at] for at in nights if at in values]))
        return Tile(name, f"{values[night.ds]:{form}}", trend([values[at] for at in nights if at in values]))

    def total(column: str, rows: Sequence[Any], *more: str) -> dict[Any, float]:
        sums: dict[Any, float] = {}
        for row in rows:
            sums[row["ds"]] = sums.get(row["ds"], 0) + sum(row[name] or 0 for name in (column, *more))
        return sums

    tasks = total("task_count", night.coverage)
    with_persona = total("history_count", night.coverage)
    made = [
        tile("tasks answered", total("history_count", night.coverage, "default_count"), ",.0f"),
        tile("with a persona", {at: with_persona[at] / tasks[at] for at in tasks}, ".0%"),
        tile("tasks refused", total("rejected_count", night.coverage), ",.0f"),
        tile("time of all jobs", total("seconds", night.cost), "time"),
    ]
    for kind, metric in dict.fromkeys((row["kind"], row["metric"]) for row in night.history):
        own = {
            row["ds"]: row["value"]
            for row in night.history
            if (row["kind"], row["metric"], row["arm"]) == (kind, metric, "own")
        }
        if metric in ("accuracy", "mae", "rouge-L", "rouge-L-unicode"):
            made.append(tile(f"{kind}: {metric_words(metric).name}", own, ".3f"))
    return [one for one in made if one]


def plug_facts(row: Row) -> dict[str, str]:
    """A plug's card: what it answered with, and what its training made of it."""
    facts = {
        "answers of the night": number(row["answer_count"]),
        "plug": row["plug_sha256"][:12],
        "personas of": number(row["persona_ds"]),
    }
    if row["trained_at"] is None:
        return facts | {"training": "not recorded in this warehouse"}
    examples = f"{row['example_count']:,} examples of {row['user_count']:,} users, in {duration(row['seconds'])}"
    losses = "nobody was held out"
    if row["held_out_user_count"]:
        users = f"on {row['held_out_user_count']:,} users it had not met"
        losses = f"{row['held_out_loss']:.3f} {users}; without the plug {row['loss_without_plug']:.3f}"
    models = {"encoder": Path(row["encoder"]).name, "language model": Path(row["llm"]).name}
    return facts | models | {"trained": f"{row['trained_at']:%Y-%m-%d}", "learned from": examples, "loss": losses}


def trend(values: Sequence[float]) -> str:
    """The points of a small line."""
    if len(values) < 2:
        return ""
    least, most = min(values), max(values)
    span = (most - least) or 1.0
    step = 100 / (len(values) - 1)
    return " ".join(f"{at * step:.1f},{22 - 20 * (value - least) / span:.1f}" for at, value in enumerate(values))


def number(value: object) -> str:
    """A value as the report shows it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return "0" if not value else f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
