"""``autofit list``: the studies of a storage, newest first."""

from __future__ import annotations

import json

from autofit.cli.options import Parser, add_study_options


def main(words: list[str]) -> int:
    """Print the studies; the exit code."""
    parser = Parser(prog="autofit list", description="The studies so far, newest first, and the best of each.")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    add_study_options(parser)
    options = parser.parse_args(words)
    from autofit.report.console import output_console
    from autofit.report.studies import studies_report, study_line
    from autofit.study.storage import default_storage
    from autofit.study.store import all_studies

    lines = [study_line(study, began) for study, began in all_studies(options.storage or default_storage())]
    if options.json:
        print(json.dumps([line.document() for line in lines], indent=2, ensure_ascii=False))
    else:
        output_console().print(studies_report(lines))
    return 0
