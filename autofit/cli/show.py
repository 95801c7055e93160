"""``autofit show``: a stored study, printed again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from autofit.cli.options import Parser, add_study_options

if TYPE_CHECKING:
    from autofit.api import SearchResult


def main(words: list[str]) -> int:
    """Print a study; the exit code."""
    parser = Parser(prog="autofit show", description="The ranked table and the recommendation of a stored study.")
    parser.add_argument("study", nargs="?", metavar="STUDY", help="name of the study (default: the newest)")
    parser.add_argument("--all", action="store_true", help="every row, and every failure")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    add_study_options(parser)
    options = parser.parse_args(words)
    from autofit.api import load

    print_result(load(options.study, storage=options.storage), as_json=options.json, everything=options.all)
    return 0


def print_result(result: SearchResult, *, as_json: bool, everything: bool = False) -> None:
    """On stdout: the document, or the report at the terminal's width."""
    if as_json:
        from autofit.export.json_document import serialize

        sys.stdout.write(serialize(result).text)
        return
    from autofit.report.console import output_console
    from autofit.report.text import final_report

    console = output_console()
    console.print(final_report(result, width=console.width, everything=everything), crop=False)
