"""``autofit MODEL --effective-batch N``: search, watch, report."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from autofit.cli.options import (
    Parser,
    add_job_options,
    add_space_options,
    add_study_options,
    job_of,
    lists,
    pairs,
    positive_number,
    whole_number,
)
from autofit.driver.samplers import SAMPLERS
from autofit.errors import NothingFitsError, UserError
from autofit.version import __version__

if TYPE_CHECKING:
    from autofit.api import SearchResult

EPILOG = """\
commands that run nothing:
  autofit plan MODEL --effective-batch N --gpu rtx-4090    what fits on a card that is not here, how fast, what it costs
  autofit estimate MODEL --effective-batch N --gpu h100    one configuration, byte by byte

commands over a stored study:
  autofit show [STUDY]                  its ranked table and recommendation
  autofit explain [STUDY]               what each knob is worth, and what less memory would change
  autofit export FORMAT=PATH            training-arguments (a Python file), json
  autofit verify [STUDY]                is it the same training as the plainest configuration?
  autofit doctor                        what can be had on this machine, and what not and why

exit codes: 0 done, 1 something broke, 2 a request that cannot be carried out, 3 nothing fits, 130 interrupted
"""


def main(words: list[str]) -> int:
    """Run a search; the exit code."""
    options = parser().parse_args(words)
    if options.price is not None and options.samples is None:
        raise UserError("--price needs --samples: how many samples the run has.")
    from autofit.export import parse_export, write_export

    exports = [parse_export(text, force=options.force) for text in options.export]
    from autofit import api
    from autofit.report.live import watch
    from autofit.result import Run

    with watch(quiet=options.quiet) as observer:
        try:
            result = api.search(
                options.model,
                **job_of(options),
                device=options.device,
                memory_limit=options.memory_limit,
                headroom=options.headroom,
                budget=options.budget,
                max_trials=options.max_trials,
                numerics=options.numerics,
                fix=pairs("--fix", options.fix),
                allow=lists("--allow", options.allow),
                forbid=lists("--forbid", options.forbid),
                study=options.study,
                storage=options.storage,
                fresh=options.fresh,
                run=None
                if options.samples is None
                else Run(samples=options.samples, epochs=options.epochs, price_per_hour=options.price),
                seed=options.seed,
                trial_timeout=options.trial_timeout,
                predict=not options.no_prediction,
                sampler=options.sampler,
                baseline=options.baseline,
                observer=observer,
            )
        except NothingFitsError as error:
            failed = error
            result = None
    if result is None:
        from autofit.api import load

        _print_result(load(observer.study, storage=options.storage), as_json=options.json)
        raise failed
    _print_result(result, as_json=options.json)
    if result.ranking.best is not None:
        for name, path in exports:
            write_export(result, name, path)
            print(f"Wrote {path}", file=sys.stderr)
    if result.interrupted:
        print(f"Interrupted; everything measured is kept. Go on with: {_resume(words)}", file=sys.stderr)
        return 130
    return 0


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
    place = made.add_argument_group("the device")
    place.add_argument("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda:0 ...")
    place.add_argument("--memory-limit", metavar="SIZE", help="fit on a card this large, such as 24GiB; enforced")
    place.add_argument(
        "--headroom", default="5%", metavar="SHARE", help="share of it that must stay free (default: 5%%)"
    )
    search = made.add_argument_group("the search")
    add_space_options(search)
    search.add_argument(
        "--no-prediction", action="store_true", help="do not predict; also run configurations that would be skipped"
    )
    search.add_argument(
        "--sampler", default="autofit", choices=SAMPLERS, help="sampler that proposes configurations (default: autofit)"
    )
    search.add_argument(
        "--baseline",
        metavar="FILE",
        help="compare with the TrainingArguments in it (JSON, YAML), not the defaults",
    )
    search.add_argument("--budget", default="10m", metavar="TIME", help="time for the whole search (default: 10m)")
    search.add_argument("--max-trials", type=whole_number, metavar="N", help="trials for the whole search")
    search.add_argument(
        "--trial-timeout", default="10m", metavar="TIME", help="end a trial that hangs this long (default: 10m)"
    )
    search.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed for weights and tokens (default: 0)"
    )
    kept = made.add_argument_group("the study")
    kept.add_argument("--study", metavar="NAME", help="its name (default: made from the job and the device)")
    kept.add_argument("--fresh", action="store_true", help="forget what was measured and begin anew")
    add_study_options(kept)  # type: ignore[arg-type]
    shown = made.add_argument_group("what comes out")
    shown.add_argument(
        "--export", action="append", default=[], metavar="FORMAT=PATH", help="training-arguments=..., json=..."
    )
    shown.add_argument("--force", action="store_true", help="overwrite exported files that exist")
    shown.add_argument("--json", action="store_true", help="one JSON document on stdout and nothing else there")
    shown.add_argument("--quiet", action="store_true", help="no progress on stderr")
    shown.add_argument("--samples", type=whole_number, metavar="N", help="samples in the whole run; adds its duration")
    shown.add_argument(
        "--epochs", type=positive_number, default=1.0, metavar="N", help="epochs in the whole run (default: 1)"
    )
    shown.add_argument(
        "--price", type=positive_number, metavar="P", help="price per GPU-hour; adds the cost of the run"
    )
    return made


def _print_result(result: SearchResult, *, as_json: bool) -> None:
    from autofit.cli.show import print_result

    print_result(result, as_json=as_json)


def _resume(words: list[str]) -> str:
    again = [word for word in words if word not in ("--fresh", "--force")]
    exports = any(word.startswith("--export") for word in again)
    return shlex.join(["autofit", *again, *(["--force"] if exports else [])])
