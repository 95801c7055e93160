"""``autofit report [STUDY]``: a study as one HTML file."""

from __future__ import annotations

import sys
from pathlib import Path

from autofit.cli.options import Parser, add_study_options


def main(words: list[str]) -> int:
    """Write the page; the exit code."""
    parser = Parser(
        prog="autofit report",
        description="A study as one HTML file with its charts, which loads nothing from the network.",
    )
    parser.add_argument("study", nargs="?", metavar="STUDY", help="name of the study (default: the newest)")
    parser.add_argument("-o", "--output", metavar="FILE", default="report.html", help="path (default: report.html)")
    parser.add_argument("--force", action="store_true", help="overwrite a file that exists")
    add_study_options(parser)
    options = parser.parse_args(words)
    from autofit import api
    from autofit.export.files import check_path, write_file
    from autofit.report.html.page import report_page

    path = check_path(Path(options.output), "--output", force=options.force)
    result, explanation = api.load_explained(options.study, storage=options.storage)
    write_file(path, report_page(result, explanation))
    print(f"Wrote {path}", file=sys.stderr)
    return 0
