"""Printing to a pipe or a file."""

from __future__ import annotations

import pytest
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autofit.report.console import PIPE_WIDTH, output_console, text_of


def filled() -> Padding:
    """A grid, which rich fills up to the width, with a line of code that keeps its indentation."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    grid.add_row("  -", Text("a reason\n\n    code"))
    return Padding(grid, (0, 0, 1, 0))


def test_no_line_of_a_pipe_or_of_a_kept_text_ends_in_spaces(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    output_console().print(filled())
    printed = capsys.readouterr().out
    assert printed == text_of(filled()) == "  - a reason\n\n        code\n\n"


def test_a_pipe_is_as_wide_as_columns_says_and_else_wide_enough_for_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert output_console().width == PIPE_WIDTH
    monkeypatch.setenv("COLUMNS", "77")
    assert output_console().width == 77
