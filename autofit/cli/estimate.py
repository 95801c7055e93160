"""``autofit estimate``: one configuration, byte by byte."""

from __future__ import annotations

import json
import sys

from autofit.cli.options import Parser, add_job_options, add_memory_options, add_output_options, job_of, pairs


def main(words: list[str]) -> int:
    """Print the estimate; the exit code: 0 where it may fit, else 3."""
    parser = Parser(
        prog="autofit estimate",
        description="Explain what one configuration needs on a card, from a training step traced without data. "
        "Knobs that are not fixed take what is planned first: autocast in 16 bits where the card has it, and the "
        "largest micro-batch up to 8.",
    )
    add_job_options(parser)
    place = parser.add_argument_group("the card")
    place.add_argument("--gpu", metavar="NAME", help="such as rtx-4090; autofit plan --list-gpus lists them")
    add_memory_options(place)
    parser.add_argument(
        "--fix", action="append", default=[], metavar="KNOB=VALUE", help="micro_batch_size=4, precision=bf16 ..."
    )
    add_output_options(parser)
    options = parser.parse_args(words)
    from autofit.cli.plan import NOTHING_FITS
    from autofit.planning import planner
    from autofit.report.progress import show_progress
    from autofit.study.prediction import Verdict

    with show_progress(quiet=options.quiet) as progress:
        found = planner.estimate(
            options.model,
            **job_of(options),
            gpu=options.gpu,
            memory=options.memory,
            headroom=options.headroom,
            fix=pairs("--fix", options.fix),
            progress=progress,
        )
    code = NOTHING_FITS if found.prediction.verdict is Verdict.NO else 0
    if options.json:
        sys.stdout.write(json.dumps(found.document(), indent=2) + "\n")
        return code
    from autofit.report.console import output_console
    from autofit.report.plan import estimate_report

    console = output_console()
    console.print(estimate_report(found, width=console.width))
    return code
