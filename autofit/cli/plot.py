"""``autofit plot [STUDY]``: one chart of a study as a picture."""

from __future__ import annotations

import sys
from pathlib import Path

from autofit.cli.options import Parser, add_study_options


def main(words: list[str]) -> int:
    """Write the picture; the exit code."""
    from autofit.export.files import check_path, write_file
    from autofit.report.html.picture import CHARTS, SUFFIXES, chart_picture

    parser = Parser(prog="autofit plot", description="One chart of a study as a picture, drawn without a browser.")
    parser.add_argument("study", nargs="?", metavar="STUDY", help="name of the study (default: the newest)")
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help=f"path that ends in {', '.join(SUFFIXES)}"
    )
    parser.add_argument("--chart", choices=CHARTS, default=CHARTS[0], help=f"default: {CHARTS[0]}")
    parser.add_argument("--force", action="store_true", help="overwrite a file that exists")
    add_study_options(parser)
    options = parser.parse_args(words)
    path = check_path(Path(options.output), "--output", force=options.force)
    if path.suffix not in SUFFIXES:
        parser.error(f"--output '{path}' has to end in one of {', '.join(SUFFIXES)}")
    from autofit import api

    result, explanation = api.load_explained(options.study, storage=options.storage)
    write_file(path, chart_picture(result, explanation, options.chart, path.suffix))
    print(f"Wrote {path}", file=sys.stderr)
    return 0
