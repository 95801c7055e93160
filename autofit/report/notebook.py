"""Notebooks: results as HTML, and the progress of a search, which a display handle shows in every kind of them.

rich's own live display shows nothing there without ipywidgets, and an empty box in a saved notebook with them.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from autofit.driver.observer import Observer
from autofit.errors import UserError
from autofit.report.console import html_of, text_of
from autofit.report.live import LivePanel
from autofit.report.text import final_report
from autofit.study.result import Result
from autofit.study.trial import Trial

WIDTH = 120
LAST_SENTENCES = 3


def default_observer() -> Observer:
    """The observer of a search that was given none: a view in a notebook, else silence."""
    return NotebookView() if in_notebook() else Observer()


def in_notebook() -> bool:
    """True in a kernel that shows rich output; IPython in a terminal is not one."""
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class Shown:
    """A renderable as a notebook's output: HTML, and plain text for whoever shows none."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/html": html_of(self._renderable, WIDTH), "text/plain": text_of(self._renderable, WIDTH)}


class NotebookView(LivePanel):
    """One output of a cell that changes as the search goes on, and at no other time: trials are timed beside it."""

    def __init__(self) -> None:
        super().__init__()
        self._sentences: list[str] = []
        self._handle: Any = None

    def begun(self, number: int, config: Any, *, whole: bool) -> None:
        super().begun(number, config, whole=whole)
        self._show()

    def ended(self, trial: Trial, trials: Any) -> None:
        super().ended(trial, trials)
        self._show()

    def say(self, sentence: str) -> None:
        self._sentences.append(sentence)
        self._show()

    def _show(self) -> None:
        from IPython.display import display

        said = [Text(sentence, style="dim") for sentence in self._sentences[-LAST_SENTENCES:]]
        shown = Shown(Group(*said, self.standing(is_moving=False)))
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)


def result_html(result: Result) -> str:
    """A result in a notebook: the report, and the chart of time against memory where the extra ``report`` is there."""
    return html_of(final_report(result, width=WIDTH), WIDTH) + _chart(result)


def _chart(result: Result) -> str:
    from autofit.report.html.picture import chart_picture

    try:
        svg = chart_picture(result, None, "trade-off", ".svg").decode()
    except UserError:
        return ""
    return f"<div style='background:white;max-width:860px'>{svg}</div>"


def register() -> None:
    """Have IPython show plans, estimates, explanations and comparisons as their reports.

    A notebook without ipywidgets is told by tqdm, which Optuna imports, that it misses them: nothing here does.
    """
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    if shell is None:
        return
    warnings.filterwarnings("ignore", message="IProgress not found")
    html = shell.display_formatter.formatters["text/html"]
    for place, name, report in _REPORTS:
        html.for_type_by_name(place, name, report)


def _plan_html(plan: Any) -> str:
    from autofit.report.plan import plan_report

    return html_of(plan_report(plan, width=WIDTH), WIDTH)


def _estimate_html(estimate: Any) -> str:
    from autofit.report.plan import estimate_report

    return html_of(estimate_report(estimate, width=WIDTH), WIDTH)


def _explanation_html(explanation: Any) -> str:
    from autofit.report.explanation import explanation_report

    return html_of(explanation_report(explanation), WIDTH)


def _comparison_html(comparison: Any) -> str:
    from autofit.report.equivalence import equivalence_report

    return html_of(equivalence_report([comparison]), WIDTH)


_REPORTS = (
    ("autofit.planning.result", "Plan", _plan_html),
    ("autofit.planning.result", "Estimate", _estimate_html),
    ("autofit.driver.explanation", "Explanation", _explanation_html),
    ("autofit.trial.equivalence", "Comparison", _comparison_html),
)
"""Module and name of a class, and its HTML: the classes themselves know nothing of reports."""
