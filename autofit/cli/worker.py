"""``autofit worker --study NAME --storage URL``: run trials of a search that was begun elsewhere."""

from __future__ import annotations

import argparse
import sys

from autofit.cli.options import Parser

EPILOG = """\
The search itself is begun once, anywhere, with the same --storage and --study:
  autofit MODEL --effective-batch 64 --storage postgresql+psycopg://me@db/tuning --study mine --gpus all
and each other host adds its GPUs, one worker for each:
  autofit worker --storage postgresql+psycopg://me@db/tuning --study mine --device cuda:0
AUTOFIT_STORAGE holds the URL where it must not be seen in the list of processes.
"""


def main(words: list[str]) -> int:
    """Take part until the search is over; the exit code."""
    options = parser().parse_args(words)
    from autofit.joined import join

    def say(sentence: str) -> None:
        if not options.quiet:
            print(sentence, file=sys.stderr, flush=True)

    try:
        why = join(
            options.study,
            storage=options.storage,
            device=options.device,
            wait=options.wait,
            trial_timeout=options.trial_timeout,
            say=say,
        )
    except KeyboardInterrupt:
        say("Left: it was ended. What it was running counts as never run.")
        return 130
    say(f"Left: {why}.")
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of ``autofit worker``."""
    made = Parser(
        prog="autofit worker",
        description="Run trials of a search that was begun elsewhere, on a GPU of this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--study", required=True, metavar="NAME", help="the study that the search is of")
    made.add_argument("--storage", metavar="URL", help="where it is kept (default: AUTOFIT_STORAGE)")
    made.add_argument("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda:0 ...")
    made.add_argument(
        "--wait", default="10m", metavar="TIME", help="wait so long for the search to begin, or to go on (default: 10m)"
    )
    made.add_argument(
        "--trial-timeout", default="10m", metavar="TIME", help="end a trial that takes longer (default: 10m)"
    )
    made.add_argument("--quiet", action="store_true", help="say nothing on stderr")
    made.add_argument("--debug", action="store_true", help="show a trace when something breaks")
    return made
