"""What is shown while a search runs."""

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
