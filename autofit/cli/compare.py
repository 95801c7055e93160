"""``autofit compare A B``: two studies beside each other."""

from __future__ import annotations

from autofit.cli.options import Parser, add_study_options


def main(words: list[str]) -> int:
    """Print what differs between two stored studies; the exit code."""
    parser = Parser(prog="autofit compare", description="What differs between two studies, and between their best.")
    parser.add_argument("first", metavar="A", help="name of a study; 'autofit list' shows them")
    parser.add_argument("second", metavar="B", help="name of another one")
    add_study_options(parser)
    options = parser.parse_args(words)
    from autofit.api import load
    from autofit.report.comparison import comparison_report
    from autofit.report.console import output_console

    first, second = (load(name, storage=options.storage) for name in (options.first, options.second))
    output_console().print(comparison_report(first, second))
    return 0
