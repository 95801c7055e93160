"""The live view of a search."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from autofit.report.live import TerminalPanel
from tests.doubles import make_situation


@pytest.mark.parametrize(
    ("seconds_left", "words"), [(90.0, "at most [78].* s left"), (0.0, "at most 0"), (None, "0 trials")]
)
def test_the_panel_says_what_earlier_runs_left_of_the_budget(seconds_left: float | None, words: str) -> None:
    console = Console(file=io.StringIO(), width=80)
    panel = TerminalPanel(console)
    panel.opened("one", "sqlite:///x.db", make_situation(), 12, [], seconds_left)
    panel.began -= 10
    console.print(panel)
    assert re.search(words, console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seconds_left", "expected", "words"),
    [
        (600.0, 110.0, "about 2 min, at most 9 min [45]. s left"),
        (600.0, 33.0, "about 40 s, at most 9 min [45]. s left"),
        (None, 33.0, "about 40 s left"),
        (90.0, 600.0, " at most [78].* s left"),
    ],
)
def test_the_panel_says_when_the_search_will_end_and_by_when_the_budget_ends_it(
    seconds_left: float | None, expected: float, words: str
) -> None:
    console = Console(file=io.StringIO(), width=80)
    panel = TerminalPanel(console)
    panel.opened("one", "sqlite:///x.db", make_situation(), 12, [], seconds_left)
    panel.expects(expected)
    panel.began -= 10
    console.print(panel)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(words, shown)
    assert shown.count("\n") == 2
