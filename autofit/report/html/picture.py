"""Single charts as pictures, drawn by vl-convert without a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autofit.errors import UserError
from autofit.report.html.charts import NEEDS, figures_of
from autofit.study.result import Result

if TYPE_CHECKING:
    import altair as alt

    from autofit.driver.explanation import Explanation

CHARTS = ("trade-off", "knobs", "memory", "step", "micro-batch", "course")
SUFFIXES = (".png", ".svg", ".pdf")
WIDTH, SCALE = 760, 2
"""Pixels of the plotted area, and how many times finer a bitmap is."""


def chart_picture(result: Result, explanation: Explanation | None, name: str, suffix: str) -> bytes:
    """A chart by its name, as a file of the suffix's kind.

    Raises UserError where the study has no data for it, or the packages of the extra ``report`` are missing.
    """
    chart = chart_of(result, explanation, name)
    try:
        import vl_convert
    except ImportError:
        raise UserError(NEEDS) from None
    spec: dict[str, Any] = chart.to_dict()
    if suffix == ".png":
        return vl_convert.vegalite_to_png(spec, scale=SCALE)
    if suffix == ".pdf":
        return vl_convert.vegalite_to_pdf(spec)
    return vl_convert.vegalite_to_svg(spec).encode()


def chart_of(result: Result, explanation: Explanation | None, name: str) -> alt.TopLevelMixin:
    """A chart by its name, with a title. Raises UserError as ``chart_picture``."""
    try:
        figures = {figure.name: figure for figure in figures_of(result, explanation)}
    except ImportError:
        raise UserError(NEEDS) from None
    if name not in CHARTS:
        raise UserError(f"There is no chart '{name}'; the charts are {', '.join(CHARTS)}.")
    if name not in figures:
        has = f"it has data for {', '.join(figures)}" if figures else "nothing was measured in it"
        raise UserError(f"Study '{result.study}' has no data for the chart '{name}': {has}.")
    title = f"{result.record.workload.model}: {figures[name].title.lower()}"
    titled: alt.TopLevelMixin = figures[name].chart.properties(width=WIDTH, title=title)
    return titled
