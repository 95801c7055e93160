"""``autofit MODEL --effective-batch N``: search, watch, report."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from autofit.cli.options import (
    Parser,
    add_job_options,
    add_kept_options,
    add_place_options,
    add_result_options,
    add_search_options,
    job_of,
    search_of,
)
from autofit.cli.reporting import report, run_of
from autofit.version import __version__

if TYPE_CHECKING:
    from autofit.api import SearchResult
    from autofit.driver.observer import Observer

EPILOG = """\
your own program, unchanged:
  autofit run -- python train.py ...    searches around its own arguments; any program that ends in Trainer.train()

many GPUs:
  autofit MODEL ... --gpus all          one trial on each GPU of this host, side by side
  autofit worker --study NAME --storage postgresql+psycopg://...    adds a GPU of another host

commands that run nothing:
  autofit plan MODEL --effective-batch N --gpu rtx-4090    what fits on a card you do not have, how fast, at what cost
  autofit estimate MODEL --effective-batch N --gpu h100    one configuration, byte by byte

commands over stored studies:
  autofit list                          the studies so far, and the best of each
  autofit show [STUDY]                  its ranked table and recommendation
  autofit compare A B                   what differs between two
  autofit explain [STUDY]               the cost of changing each knob; what less memory would change
  autofit report [STUDY]                one HTML file with charts: memory, time, knobs, what failed
  autofit plot [STUDY] -o FILE          one of its charts as PNG, SVG or PDF
  autofit export FORMAT=PATH            a file for Python, TRL, Axolotl, ... (--help lists the formats)
  autofit verify [STUDY]                check that the recommendation trains the same as the plainest
  autofit doctor                        what is available on this machine, and why the rest is not

exit codes: 0 done, 1 something broke, 2 invalid request, 3 nothing fits, 130 interrupted
"""


def main(words: list[str]) -> int:
    """Run a search; the exit code."""
    options = parser().parse_args(words)

    def search(observer: Observer) -> SearchResult:
        from autofit import api

        return api.search(
            options.model,
            **job_of(options),
            **search_of(options),
            run=run_of(options),
            predict=not options.no_prediction,
            baseline=options.baseline,
            gpus=options.gpus,
            observer=observer,
        )

    return report(search, options, ["autofit", *words])


def parser() -> argparse.ArgumentParser:
    """The options of a search."""
    made = Parser(
        prog="autofit",
        description="Find the fastest Hugging Face training configuration that fits, at exactly the effective batch "
        "you ask for: measured on this device, ranked, and ready to paste.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"autofit {__version__}")
    add_job_options(made)
    add_place_options(made)
    search = made.add_argument_group("the search")
    add_search_options(search)
    search.add_argument(
        "--no-prediction", action="store_true", help="do not predict; also run configurations that would be skipped"
    )
    search.add_argument(
        "--baseline",
        metavar="FILE",
        help="compare with the TrainingArguments in it (JSON, YAML), not the defaults",
    )
    search.add_argument(
        "--gpus",
        metavar="LIST",
        help="GPUs that run trials side by side: all, or such as 0,1; none: only the workers that join",
    )
    add_kept_options(made)
    add_result_options(made)
    return made
