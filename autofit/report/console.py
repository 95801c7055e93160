"""Consoles of reports: stdout at the terminal's width, and ones whose text is kept."""

from __future__ import annotations

import io
import os
import re
import sys
from typing import IO, Any, cast

from rich.console import Console, RenderableType

PIPE_WIDTH = 132
"""Columns where the output is no terminal and COLUMNS does not say."""


def output_console() -> Console:
    """stdout. Piped, it is as wide as COLUMNS says, else wide enough for the table, and no line ends in spaces."""
    if sys.stdout.isatty():
        return Console(highlight=False, markup=False)
    width = None if "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(file=cast(IO[str], _Piped()), width=width, highlight=False, markup=False)


class _Piped:
    """stdout without the spaces that rich fills lines up with, which a terminal does not show and a file keeps."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)

    def write(self, text: str) -> int:
        return sys.stdout.write(_without_trailing_spaces(text))


def _without_trailing_spaces(text: str) -> str:
    return re.sub(r" +(?=\n)", "", text)


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
    return _without_trailing_spaces(buffer.getvalue())


def html_of(renderable: RenderableType, width: int = PIPE_WIDTH) -> str:
    """HTML for a notebook, whose colours it takes."""
    console = Console(file=io.StringIO(), width=width, record=True, highlight=False, markup=False, force_jupyter=False)
    console.print(renderable)
    return console.export_html(inline_styles=True, code_format="<pre style='line-height:1.2'>{code}</pre>")
