"""``autofit explain [STUDY]``: why the recommendation, what changing each knob costs, what less memory changes."""

from __future__ import annotations

import json

from autofit.cli.options import Parser, add_study_options


def main(words: list[str]) -> int:
    """Print the explanation of a study; the exit code."""
    made = Parser(
        prog="autofit explain", description="The cost of changing each knob, and what less memory would change."
    )
    made.add_argument("study", nargs="?", metavar="STUDY", help="name of the study (default: the newest)")
    made.add_argument("--json", action="store_true", help="one JSON document on stdout")
    add_study_options(made)
    options = made.parse_args(words)
    from autofit import api
    from autofit.report.console import output_console
    from autofit.report.explanation import explanation_report

    explanation = api.explain(options.study, storage=options.storage)
    if options.json:
        print(json.dumps(explanation.document(), indent=2, ensure_ascii=False))
    else:
        output_console().print(explanation_report(explanation))
    return 0
