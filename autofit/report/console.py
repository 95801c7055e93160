"""The console of reports: stdout at the terminal's width, colours only where they are wanted."""

from __future__ import annotations

import os
import sys

from rich.console import Console

from autofit.report.text import PIPE_WIDTH


def output_console() -> Console:
    """stdout. Piped, it is as wide as COLUMNS says, else wide enough for the whole table."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPE_WIDTH if piped else None, highlight=False, markup=False)
