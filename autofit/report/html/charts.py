"""Charts of a study, drawn by Altair (the extra ``report``), and the figures that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autofit.report.html import chart_data
from autofit.report.html.chart_data import Row, Scale
from autofit.study.result import Result

if TYPE_CHECKING:
    import altair as alt

    from autofit.driver.explanation import Explanation

NEEDS = "Charts need Altair, vl-convert and Jinja2: pip install altair vl-convert-python jinja2."
GREY = "#8a97a6"
MOST_PERCENT = 150
KINDS = {"recommended": "#d1495b", "reference": "#edae49", "ran whole": "#2e6fb7", "short trial": GREY}
"""Extents to which a configuration was measured, and their colours, which do not rest on red against green."""
RUNS = {"short trial": GREY, "whole run": "#2e6fb7"}
PARTS = {
    "forward backward": "#2e6fb7",
    "matrix products": "#2e6fb7",
    "attention": "#57a0d3",
    "other operators": "#9cc5a1",
    "update": "#edae49",
    "launches": "#c9ada7",
    "loader": "#d1495b",
    "between steps": GREY,
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure. ``caption`` says what it shows; ``columns`` are titles of those values of its rows that its table
    has, by name."""

    name: str
    title: str
    caption: str
    columns: dict[str, str]
    rows: list[Row]
    chart: alt.TopLevelMixin

    @property
    def table(self) -> list[list[str]]:
        """The titles and then the rows, in words."""
        return [list(self.columns.values()), *([word(row.get(name)) for name in self.columns] for row in self.rows)]


def word(value: Any) -> str:
    """A value of a row, for a table."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def figures_of(result: Result, explanation: Explanation | None) -> list[Figure]:
    """Every figure for which the study has data, in the order of the page."""
    drawn = [draw(result) for draw in (_trade_off, _memory, _step, _curves, _course)]
    if explanation is not None:
        drawn.insert(1, _knobs(explanation))
    return [figure for figure in drawn if figure is not None]


def _trade_off(result: Result) -> Figure | None:
    rows = chart_data.trade_off(result)
    if not rows:
        return None
    import altair as alt

    scale = Scale(result)
    x = alt.X("memory:Q").title(f"peak memory, {scale.memory_unit}").scale(zero=False, nice=True)
    y = alt.Y("time:Q").title(f"time per optimizer step, {scale.time_unit}").scale(zero=False, nice=True)
    base = _chart_of(rows)
    points = base.mark_point(filled=True, size=90, opacity=0.85).encode(
        x=x,
        y=y,
        color=_colors("kind", KINDS),
        shape=_shapes("kind", KINDS, ["diamond", "square", "circle", "triangle-up"]),
        tooltip=[alt.Tooltip("configuration:N"), alt.Tooltip("said:N", title="measured"), alt.Tooltip("kind:N")],
    )
    front = (
        _chart_of([row for row in rows if row["front"]])
        .mark_line(interpolate="step-after", strokeDash=[2, 3], color=GREY)
        .encode(x="memory:Q", y="time:Q", order="memory:Q")
    )
    limits = [
        {"memory": scale.memory(size), "line": name}
        for size, name in (
            (result.situation.limits.usable_bytes, "limit less headroom"),
            (result.situation.limits.memory_bytes, "limit"),
        )
    ]
    rules = (
        _chart_of(limits)
        .mark_rule(strokeDash=[6, 4], color="#d1495b")
        .encode(x="memory:Q", tooltip=[alt.Tooltip("line:N"), alt.Tooltip("memory:Q", format=".4g")])
    )
    return Figure(
        name="trade-off",
        title="Time against memory",
        caption="Every measured configuration. The dotted line is the Pareto front: "
        "nothing is faster with less memory. The dashed lines are the limit, and the limit less the headroom.",
        columns={
            "rank": "#",
            "configuration": "configuration",
            "time": f"a step, {scale.time_unit}",
            "memory": f"peak memory, {scale.memory_unit}",
            "kind": "measured",
        },
        rows=rows,
        chart=(front + rules + points).properties(height=360),
    )


def _knobs(explanation: Explanation) -> Figure | None:
    rows = chart_data.knob_effects(explanation)
    if not rows:
        return None
    import altair as alt

    order = [row["change"] for row in rows]
    least, most = min(0.0, *(row["slower"] for row in rows)), max(10.0, *(row["slower"] for row in rows))
    # One very slow choice would make all others look alike.
    axis = alt.X("slower:Q").title("slower than the recommendation, %")
    x = axis.scale(domain=[max(1.15 * least, -MOST_PERCENT), min(1.15 * most, MOST_PERCENT)], clamp=True)
    base = _chart_of(rows).encode(y=alt.Y("change:N").sort(order).title(None).axis(labelLimit=260), x=x)
    bars = base.mark_bar(height=12).encode(
        color=alt.Color("basis:N").title(None).scale(scheme="tableau10").legend(orient="top"),
        tooltip=[
            alt.Tooltip("change:N"),
            alt.Tooltip("slower:Q", format="+.1f", title="time, %"),
            alt.Tooltip("memory:N"),
            alt.Tooltip("basis:N"),
            alt.Tooltip("reason:N"),
        ],
    )
    words = base.mark_text(align="left", dx=5, fontSize=11, color=GREY).encode(x="end:Q", text="said:N")
    chart = bars + words
    known = [row for row in rows if row["low"] is not None]
    if known:
        ends = alt.Chart(alt.InlineData(values=known)).mark_rule(color=GREY, strokeWidth=1.5)
        chart += ends.encode(y=alt.Y("change:N").sort(order), x="low:Q", x2="high:Q")
    return Figure(
        name="knobs",
        title="What each knob is worth",
        caption="The recommendation with one knob changed; bars are cut at 150 %. Lines are what rounds differ by, or "
        "95 % intervals. Estimated, predicted and ruled-out ones were not run.",
        columns={
            "change": "instead",
            "slower": "time of a step, %",
            "memory": "memory",
            "basis": "how it is known",
            "reason": "basis",
        },
        rows=rows,
        chart=chart.properties(height=max(120, 20 * len(rows))),
    )


def _memory(result: Result) -> Figure | None:
    rows = chart_data.memory_parts(result)
    if not rows:
        return None
    import altair as alt

    scale, order = Scale(result), list(dict.fromkeys(row["configuration"] for row in rows))
    y = alt.Y("configuration:N").sort(order).title(None)
    bars = (
        _chart_of(rows)
        .mark_bar(height=16)
        .encode(
            x=alt.X("memory:Q").title(f"memory, {scale.memory_unit}"),
            y=y,
            color=alt.Color("category:N")
            .sort([name.replace("_", " ") for name in chart_data.CATEGORIES])
            .scale(scheme="tableau20")
            .title(None)
            .legend(orient="top", columns=4),
            order="order:Q",
            tooltip=["configuration:N", "category:N", alt.Tooltip("memory:Q", format=".4g", title=scale.memory_unit)],
        )
    )
    totals = _chart_of(rows).transform_aggregate(
        measured="max(measured)", predicted="max(predicted)", groupby=["configuration"]
    )
    ticks = [
        totals.mark_tick(thickness=3, size=26, color=color).encode(
            x=f"{name}:Q", y=y, tooltip=["configuration:N", alt.Tooltip(f"{name}:Q", format=".4g")]
        )
        for name, color in (("predicted", GREY), ("measured", "#d1495b"))
    ]
    return Figure(
        name="memory",
        title="Memory by category",
        caption="Predicted bytes at the peak of the finalists, by what they hold. The grey mark is the prediction with "
        "what earlier trials corrected, from before the trial ran; the red one is the measured peak.",
        columns={
            "configuration": "configuration",
            "category": "category",
            "memory": f"predicted, {scale.memory_unit}",
            "predicted": f"predicted in all, {scale.memory_unit}",
            "measured": f"measured in all, {scale.memory_unit}",
        },
        rows=rows,
        chart=alt.layer(bars, *ticks).properties(height=max(90, 34 * len(order))),
    )


def _step(result: Result) -> Figure | None:
    rows = chart_data.step_parts(result)
    if not rows:
        return None
    import altair as alt

    scale, order = Scale(result), list(dict.fromkeys(row["configuration"] for row in rows))
    used = {row["part"] for row in rows}
    colors = {name: color for name, color in PARTS.items() if name in used}
    chart = (
        _chart_of(rows)
        .mark_bar(height=14)
        .encode(
            x=alt.X("time:Q").title(f"time per optimizer step, {scale.time_unit}"),
            y=alt.Y("configuration:N").sort(order).title(None),
            yOffset=alt.YOffset("source:N").sort(["measured", "predicted"]),
            color=_colors("part", colors),
            opacity=alt.Opacity("source:O")
            .scale(domain=["measured", "predicted"], range=[1.0, 0.55])
            .legend(None),
            tooltip=[
                "configuration:N", "source:N", "part:N",
                alt.Tooltip("time:Q", format=".3g", title=scale.time_unit),
            ],
        )
    )  # fmt: skip
    return Figure(
        name="step",
        title="Where the time of a step goes",
        caption="The upper bar is measured: the loader, forward and backward passes, the optimizer's update, and "
        "what lies between steps. The paler one is predicted: how the traced operators share it, by the rates of this "
        "device.",
        columns={
            "configuration": "configuration",
            "source": "source",
            "part": "part",
            "time": f"time, {scale.time_unit}",
        },
        rows=rows,
        chart=chart.properties(height=max(110, 44 * len(order))),
    )


def _curves(result: Result) -> Figure | None:
    rows = chart_data.micro_batch_curves(result)
    if not rows:
        return None
    import altair as alt

    sizes = sorted({row["micro_batch"] for row in rows})
    chart = (
        _chart_of(rows)
        .mark_line(point=alt.OverlayMarkDef(size=60, filled=True))
        .encode(
            x=alt.X("micro_batch:Q").scale(type="log", base=2).axis(values=sizes, format="d").title("micro-batch"),
            y=alt.Y("samples_per_second:Q").title("samples per second").scale(zero=False),
            color=alt.Color("combination:N")
            .scale(scheme="tableau10")
            .title(None)
            .legend(orient="top", columns=1, labelLimit=600),
            tooltip=["combination:N", "micro_batch:Q", alt.Tooltip("said:N", title="measured")],
        )
    )
    return Figure(
        name="micro-batch",
        title="Micro-batch",
        caption="Throughput at the same effective batch of combinations that were measured with several micro-batches, "
        f"the first {chart_data.MOST_CURVES} of them. A larger micro-batch is not always faster.",
        columns={
            "combination": "combination",
            "micro_batch": "micro-batch",
            "samples_per_second": "samples per second",
            "said": "measured",
        },
        rows=rows,
        chart=chart.properties(height=280),
    )


def _course(result: Result) -> Figure | None:
    rows = chart_data.course(result)
    if not any(row["best"] is not None for row in rows):
        return None
    import altair as alt

    scale = Scale(result)
    base = _chart_of(rows)
    x = alt.X("spent:Q").title("seconds of trials")
    y = alt.Y("time:Q").title(f"time per optimizer step, {scale.time_unit}").scale(type="log", nice=False, padding=12)
    tooltip = [
        alt.Tooltip("trial:Q"), alt.Tooltip("configuration:N"), alt.Tooltip("outcome:N"),
        alt.Tooltip("time:Q", format=".4g", title=f"measured, {scale.time_unit}"),
        alt.Tooltip("predicted:Q", format=".4g", title=f"predicted, {scale.time_unit}"),
    ]  # fmt: skip
    best = base.mark_line(interpolate="step-after", color="#d1495b").encode(x=x, y="best:Q")
    measured = base.mark_point(filled=True, size=70).encode(
        x=x,
        y=y,
        tooltip=tooltip,
        color=_colors("outcome", RUNS),
        shape=_shapes("outcome", RUNS, ["triangle-up", "circle"]),
    )
    predicted = base.mark_point(filled=False, size=50, color=GREY).encode(x=x, y="predicted:Q", tooltip=tooltip)
    return Figure(
        name="course",
        title="Course of the search",
        caption="Trials in the order they ran: filled points are measured, hollow ones what was predicted "
        "of each before it ran. The line is the fastest short trial so far; whole runs confirm the fastest and are not "
        "compared with it. Trials without a filled point did not get through.",
        columns={
            "trial": "trial",
            "spent": "seconds so far",
            "configuration": "configuration",
            "outcome": "outcome",
            "time": f"measured, {scale.time_unit}",
            "predicted": f"predicted, {scale.time_unit}",
            "best": f"fastest so far, {scale.time_unit}",
        },
        rows=rows,
        chart=(best + predicted + measured).properties(height=280),
    )


def _chart_of(rows: list[Row]) -> alt.Chart:
    import altair as alt

    return alt.Chart(alt.InlineData(values=rows))


def _colors(name: str, colors: dict[str, str]) -> alt.Color:
    import altair as alt

    return (
        alt.Color(f"{name}:N")
        .scale(domain=list(colors), range=list(colors.values()))
        .title(None)
        .legend(orient="top", columns=4)
    )


def _shapes(name: str, colors: dict[str, str], shapes: list[str]) -> alt.Shape:
    """Shapes that go with colours of the same names, in one legend."""
    import altair as alt

    return alt.Shape(f"{name}:N").scale(domain=list(colors), range=shapes).title(None)
