"""``autofit verify``: is the recommended configuration the same training as the plainest one?"""

from __future__ import annotations

import json
import sys

from autofit.cli.options import Parser, add_study_options


def main(words: list[str]) -> int:
    """Compare and print; 0 where all are the same training, 1 where one is not."""
    parser = Parser(
        prog="autofit verify",
        description="Train one effective batch with chosen configurations of a study and with the plainest one of the "
        "same precision, from the same weights with dropout off, and compare loss and gradient norm. A configuration "
        "that is not the same training is stored as invalid and no longer ranked.",
    )
    parser.add_argument("study", nargs="?", metavar="STUDY", help="name of the study (default: the newest)")
    parser.add_argument("--equivalence", action="store_true", help="what is compared; the only kind there is, so far")
    parser.add_argument(
        "--trial", type=int, action="append", metavar="N", help="check this trial's configuration (default: the best's)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout and nothing else there")
    add_study_options(parser)
    options = parser.parse_args(words)

    import msgspec

    from autofit import api
    from autofit.report.console import output_console
    from autofit.report.equivalence import equivalence_report

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr)

    comparisons = api.verify(options.study, trials=options.trial, storage=options.storage, announce=say)
    if options.json:
        print(json.dumps(msgspec.to_builtins(comparisons), indent=2))
    else:
        output_console().print(equivalence_report(comparisons))
    return 0 if all(each.same for each in comparisons) else 1
