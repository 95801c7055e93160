"""``autofit run [options] -- COMMAND``: search around a training program of one's own, which stays as it is."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from autofit.cli.options import (
    Parser,
    add_kept_options,
    add_place_options,
    add_result_options,
    add_search_options,
    search_of,
    whole_number,
)
from autofit.cli.reporting import report, run_of
from autofit.errors import UserError

if TYPE_CHECKING:
    from autofit.api import SearchResult
    from autofit.driver.observer import Observer

EPILOG = """\
examples:
  autofit run -- python train.py --per_device_train_batch_size 8
  autofit run --memory-limit 24GiB -- trl sft --config sft.yaml

The program is started, stopped where it begins to train, and never changed. Its own arguments are what the others are
compared with, and they say the effective batch, which every trial keeps.
"""


def main(words: list[str]) -> int:
    """Search around a program; the exit code."""
    ours, command = split(words)
    options = parser().parse_args(ours)
    if not command:
        raise UserError("autofit run takes your own command after --: autofit run -- python train.py ...")

    from autofit.own_program import ProgramRequest, search_program, train_guarded, train_with

    request = ProgramRequest(
        command=tuple(command),
        **search_of(options),
        keep=tuple(options.keep),
        run=run_of(options),
        start_timeout=options.start_timeout,
        train_call=options.trainer,
    )
    if options.only_recover:
        for name in ("apply", "export", "json"):
            if getattr(options, name):
                raise UserError(
                    f"--only-recover searches nothing, and --{name} is for a search: leave one of them out."
                )
        return train_guarded(request)
    found: list[SearchResult] = []

    def search(observer: Observer) -> SearchResult:
        found.append(search_program(request, observer))
        return found[0]

    code = report(search, options, ["autofit", "run", *words], of_program=True)
    if code != 0 or not options.apply:
        return code
    from autofit.report.own_program import changes_in_a_line

    print(f"autofit: training with {changes_in_a_line(found[0])}.", file=sys.stderr, flush=True)
    return train_with(found[0], request)


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Our options, and the command after the first ``--``; without one, all words are ours."""
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]


def parser() -> argparse.ArgumentParser:
    """The options of ``autofit run``."""
    made = Parser(
        prog="autofit run",
        usage="autofit run [options] -- COMMAND",
        description="Find the fastest settings that fit for a training program of your own, run unchanged.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    program = made.add_argument_group("the program")
    program.add_argument(
        "--apply", action="store_true", help="then train to the end with the winner, surviving out-of-memory"
    )
    program.add_argument(
        "--only-recover", action="store_true", help="no search: train to the end, surviving out-of-memory"
    )
    program.add_argument(
        "--trainer", type=whole_number, default=1, metavar="N", help="the N-th call of train() (default: the first)"
    )
    program.add_argument(
        "--start-timeout", default="10m", metavar="TIME", help="time for it to reach train() (default: 10m)"
    )
    add_place_options(made)
    search = made.add_argument_group("the search")
    add_search_options(search)
    search.add_argument(
        "--keep", action="append", default=[], metavar="KNOB", help="leave this knob as the program has it"
    )
    add_kept_options(made)
    add_result_options(made)
    return made
