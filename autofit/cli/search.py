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
from autofit.errors import NothingFitsError, UserError
from autofit.version import __version__

if TYPE_CHECKING:
    from autofit.api import SearchResult
    from autofit.report.live import Watcher

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

    def search(observer: Watcher) -> SearchResult:
        try:
            return _search(options, observer)
        except NothingFitsError:
            number = _processes_instead(options, observer.study)
            if number is None:
                raise
        observer.say(
            f"Nothing fits one GPU: going on with trainings in {number} processes, one for each GPU here; --processes "
            "1 ends it instead."
        )
        return _search(options, observer, number)

    return report(search, options, ["autofit", *words])


def _search(options: argparse.Namespace, observer: Watcher, processes: int | None = None) -> SearchResult:
    """One search, in as many processes as are asked for; ``processes`` where these are others, by another study."""
    from autofit import api

    request = {**job_of(options), **search_of(options)}
    if processes is not None:
        request["processes"] = processes
        request["study"] = options.study and f"{options.study}-in-{processes}-processes"
    return api.search(
        options.model,
        **request,
        run=run_of(options),
        predict=not options.no_prediction,
        baseline=options.baseline,
        gpus=options.gpus,
        observer=observer,
    )


def _processes_instead(options: argparse.Namespace, study: str | None) -> int | None:
    """Number of GPUs here, where a search of one process found that nothing fits; None where that is no way on."""
    from autofit.api import load
    from autofit.device.kinds import find_gpus, kind_of
    from autofit.study.outcome import Outcome

    if options.processes is not None or options.gpus or options.baseline or options.device != "auto":
        return None
    result = load(study, storage=options.storage)
    lacks_memory = all(trial.outcome in (Outcome.OOM, Outcome.SKIPPED) for trial in result.trials)
    if kind_of(result.situation.device).is_host or not lacks_memory:
        return None
    try:
        number = len(find_gpus("all"))
    except UserError:  # they are not of one kind
        return None
    return number if number > 1 and options.effective_batch % number == 0 else None


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
