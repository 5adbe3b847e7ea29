"""The charts of the report as Vega-Lite: fixed order and colours, axes that show the difference, values on hover."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import altair as alt

from pipelines.report.night import NightNumbers, Rows
from pipelines.slices import HISTORY_LENGTHS
from pipelines.verdicts.words import ARMS, metric_words

Chart = dict[str, Any]

COLOURS: Final = {
    ARMS["own"]: "#2f7fd1",
    ARMS["other"]: "#d9822b",
    ARMS["default"]: "#8a63c9",
    ARMS["none"]: "#7d8790",
}
"""By what the arm is called; readable on white and on black."""
BASELINE: Final = "#2a9d8f"


def charts_of(night: NightNumbers) -> dict[str, Chart]:
    """Every chart there is something to draw for, by the id of its place in the page."""
    made = {
        **quality_charts(night.quality),
        **slice_charts(night.slices),
        "funnel": funnel(night),
        "coverage": coverage(night),
        "drift": drift(night.drift),
        "map": persona_map(night.map),
        "scores": histogram(night.histogram, "score_step", "probability of the answer, mean of its tokens", bins=True),
        "lengths": histogram(night.histogram, "output_tokens", "tokens of the answer", bins=False),
        "time": cost(night.cost, "minutes", "minutes"),
        "tokens": cost(night.cost, "tokens", "tokens"),
    }
    fitted = {"autosize": {"type": "fit-x", "contains": "padding"}}
    return {name: chart.to_dict() | fitted for name, chart in made.items() if chart is not None}


def quality_charts(rows: Rows) -> dict[str, Any]:
    """The intervals of each kind and metric; the axis reaches as far as they do."""
    made: dict[str, Any] = {}
    for kind, metric in dict.fromkeys((row["kind"], row["metric"]) for row in rows):
        mine = [
            {**_values(row), "answered with": ARMS.get(row["arm"], row["arm"])}
            for row in rows
            if (row["kind"], row["metric"]) == (kind, metric)
        ]
        made[f"quality-{len(made)}"] = _intervals(mine)
    return made


def _intervals(values: Sequence[dict[str, Any]]) -> Any:
    there = [row["answered with"] for row in values]
    order = sorted(dict.fromkeys(there), key=[*ARMS.values(), *there].index)
    base = alt.Chart(alt.Data(values=list(values))).encode(
        y=alt.Y("answered with:N", sort=order, title=None, axis=alt.Axis(labelLimit=260)),
        color=alt.Color("answered with:N", scale=_colours(order), legend=None),
        tooltip=["answered with:N", *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("value", "low", "high"))],
    )
    x = alt.X("low:Q", title=None, scale=alt.Scale(zero=False, nice=True))
    return alt.layer(
        base.mark_rule(strokeWidth=6, opacity=0.35).encode(x=x, x2="high:Q"),
        base.mark_point(filled=True, size=110, opacity=1).encode(x="value:Q"),
    ).properties(width="container", height=34 * len(order))


def slice_charts(rows: Rows) -> dict[str, Any]:
    """A metric by the length of the users' histories."""
    made: dict[str, Any] = {}
    for kind, metric in dict.fromkeys((row["kind"], row["metric"]) for row in rows):
        mine = [row for row in rows if (row["kind"], row["metric"]) == (kind, metric)]
        if len({row["slice"] for row in mine}) < 2:
            continue
        values = [{**_values(row), "answered with": ARMS[row["arm"]], "history": row["slice"]} for row in mine]
        base = alt.Chart(alt.Data(values=values)).encode(
            x=alt.X("history:N", sort=list(HISTORY_LENGTHS), title=None, axis=alt.Axis(labelAngle=-30)),
            y=alt.Y("value:Q", title=metric_words(metric).name, scale=alt.Scale(zero=False)),
            color=alt.Color("answered with:N", scale=_colours(COLOURS), legend=_legend(columns=1)),
            tooltip=["history:N", "answered with:N", alt.Tooltip("value:Q", format=".3f"), "task_count:Q"],
        )
        chart = alt.layer(base.mark_line(opacity=0.6), base.mark_point(filled=True, size=80, opacity=1))
        made[f"slice-{len(made)}"] = chart.properties(width="container", height=220)
    return made


def funnel(night: NightNumbers) -> Any:
    """Rows in, rows refused, tasks, answers."""
    came = [row for row in night.runs if row["job"].startswith("ingest")]
    tonight = [row for row in night.coverage if row["ds"] == night.ds]
    steps = {
        "rows ingested": sum(row["rows_in"] or 0 for row in came),
        "rows kept": sum(row["rows_out"] or 0 for row in came),
        "tasks queued": sum(row["task_count"] for row in tonight),
        "answered": sum(row["history_count"] + row["default_count"] for row in tonight),
        "answered with a persona": sum(row["history_count"] for row in tonight),
    }
    values = [{"step": step, "rows": count} for step, count in steps.items()]
    if not any(steps.values()):
        return None
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("step:N", sort=list(steps), title=None, axis=alt.Axis(labelLimit=260)),
        x=alt.X(
            "rows:Q", title=None, scale=alt.Scale(domainMax=1.15 * max(steps.values())), axis=alt.Axis(tickMinStep=1)
        ),
        tooltip=["step:N", alt.Tooltip("rows:Q", format=",")],
    )
    text = base.mark_text(align="left", dx=4).encode(text=alt.Text("rows:Q", format=","))
    return alt.layer(base.mark_bar(color="#2f7fd1"), text).properties(width="container", height=28 * len(steps))


def coverage(night: NightNumbers) -> Any:
    """How many of the users asked for have a persona, over the nights."""
    values = [
        {"night": str(row["ds"]), "share": row["covered_user_share"], "users": row["user_count"]}
        for row in night.personas
    ]
    return _over_nights(values, "share", "users with a persona", ".0%") if len(values) > 1 else None


def drift(rows: Rows) -> Any:
    """How near personas are to those of the night before."""
    named = {"median_similarity": "the median user", "p05_similarity": "one user in twenty"}
    values = [
        {"night": str(row["ds"]), "of": name, "cosine": row[column], "users": row["user_count"]}
        for row in rows
        for column, name in named.items()
    ]
    colour = alt.Color("of:N", legend=_legend(), scale=alt.Scale(range=["#2f7fd1", "#d9822b"]))
    return _over_nights(values, "cosine", "cosine to the night before", ".3f", color=colour) if values else None


def persona_map(rows: Rows) -> Any:
    """Personas in two dimensions."""
    if not rows:
        return None
    tooltip = [
        *(["user:N"] if "user" in rows[0] else []),
        "items:Q",
        alt.Tooltip("nearest:Q", title="cosine to the nearest"),
    ]
    bare = alt.Axis(labels=False, ticks=False, domain=False, grid=False)
    return (
        alt.Chart(alt.Data(values=[dict(row) for row in rows]))
        .mark_circle(opacity=0.7)
        .encode(
            x=alt.X("x:Q", title=None, axis=bare, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", title=None, axis=bare, scale=alt.Scale(zero=False)),
            size=alt.Size("items:Q", title="items", scale=alt.Scale(range=[20, 260]), legend=None),
            color=alt.Color(
                "nearest:Q", title="cosine to the nearest", scale=alt.Scale(scheme="viridis"), legend=_legend()
            ),
            tooltip=tooltip,
        )
        .properties(width="container", height=360)
    )


def histogram(rows: Rows, column: str, title: str, *, bins: bool) -> Any:
    """How many answers have that score or length, by kind."""
    counts = defaultdict[tuple[str, float], int](int)
    for row in rows:
        counts[row["kind"], row[column]] += row["answer_count"]
    values = [{"kind": kind, column: at, "answers": count} for (kind, at), count in counts.items()]
    if not values or {row[column] for row in values} == {0}:
        return None
    x: Any = alt.X(f"{column}:Q", title=title, bin=alt.Bin(step=0.05) if bins else alt.Bin(maxbins=32))
    return (
        alt.Chart(alt.Data(values=values))
        .mark_bar()
        .encode(
            x=x,
            y=alt.Y("sum(answers):Q", title="answers", axis=alt.Axis(tickMinStep=1)),
            color=alt.Color("kind:N", legend=_legend(), scale=alt.Scale(scheme="tableau10")),
            tooltip=["kind:N", x, alt.Tooltip("sum(answers):Q", title="answers", format=",")],
        )
        .properties(width="container", height=180)
    )


def cost(rows: Rows, column: str, title: str) -> Any:
    """What each job cost, over the nights."""
    values = [
        {
            "night": str(row["ds"]),
            "job": row["job"],
            "minutes": row["seconds"] / 60,
            "tokens": row["tokens"],
            "runs": row["run_count"],
        }
        for row in rows
        if row["seconds"] is not None
    ]
    if not values or not any(row[column] for row in values):
        return None
    return (
        alt.Chart(alt.Data(values=values))
        .mark_bar()
        .encode(
            x=_night(),
            y=alt.Y(f"{column}:Q", title=title),
            color=alt.Color("job:N", legend=_legend(), scale=alt.Scale(scheme="tableau10")),
            tooltip=["night:O", "job:N", alt.Tooltip(f"{column}:Q", format=",.4~r"), "runs:Q"],
        )
        .properties(width="container", height=200)
    )


def _over_nights(values: Sequence[dict[str, Any]], column: str, title: str, form: str, **more: Any) -> Any:
    base = alt.Chart(alt.Data(values=list(values))).encode(
        x=_night(),
        y=alt.Y(f"{column}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format=form)),
        tooltip=["night:O", alt.Tooltip(f"{column}:Q", title=title, format=form), alt.Tooltip("users:Q", format=",")],
        **more,
    )
    lines = alt.layer(base.mark_line(), base.mark_point(filled=True, size=70, opacity=1))
    return lines.properties(width="container", height=180)


def _values(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in ("value", "low", "high", "task_count")}


def _night() -> Any:
    return alt.X("night:O", title=None, axis=alt.Axis(labelAngle=-40))


def _colours(names: Iterable[str]) -> Any:
    shown = {name: COLOURS.get(name, BASELINE) for name in names}
    return alt.Scale(domain=list(shown), range=list(shown.values()))


def _legend(columns: int = 2) -> Any:
    return alt.Legend(orient="top", title=None, columns=columns, labelLimit=260)
