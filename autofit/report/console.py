"""Consoles of reports: stdout at the terminal's width, and ones whose text is kept."""

from __future__ import annotations

import io
import os
import sys

from rich.console import Console, RenderableType

PIPE_WIDTH = 132
"""Columns where the output is no terminal and COLUMNS does not say."""


def output_console() -> Console:
    """stdout. Piped, it is as wide as COLUMNS says, else wide enough for the whole table."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPE_WIDTH if piped else None, highlight=False, markup=False)


def text_of(renderable: RenderableType, width: int = PIPE_WIDTH) -> str:
    """Plain text, no colours."""
    buffer = io.StringIO()
    # In a notebook rich would display it, too.
    console = Console(
        file=buffer,
        width=width,
        no_color=True,
        highlight=False,
        markup=False,
        force_jupyter=False,
        force_terminal=False,
    )
    console.print(renderable)
    return buffer.getvalue()


def html_of(renderable: RenderableType, width: int = PIPE_WIDTH) -> str:
    """HTML for a notebook, whose colours it takes."""
    console = Console(file=io.StringIO(), width=width, record=True, highlight=False, markup=False, force_jupyter=False)
    console.print(renderable)
    return console.export_html(inline_styles=True, code_format="<pre style='line-height:1.2'>{code}</pre>")
