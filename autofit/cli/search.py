"""``autofit MODEL --effective-batch N``: search, watch, report."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

from autofit.cli.options import Parser, add_study_options, positive_number, whole_number
from autofit.errors import NothingFitsError, UserError
from autofit.method import FROZEN_DTYPES, METHODS, Adapter
from autofit.tasks import TASK_NAMES
from autofit.version import __version__

if TYPE_CHECKING:
    from autofit.api import SearchResult

EPILOG = """\
commands over a stored study:
  autofit show [STUDY]                  its ranked table and recommendation
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

    exports = [parse_export(text) for text in options.export]
    from autofit import api
    from autofit.report.live import watch
    from autofit.result import Run

    with watch(quiet=options.quiet) as observer:
        try:
            result = api.search(
                options.model,
                effective_batch=options.effective_batch,
                seq_len=options.seq_len,
                data=options.data,
                text_field=options.text_field,
                lengths=options.lengths,
                max_length=options.max_length,
                tokens_per_word=options.tokens_per_word,
                task=options.task,
                method=options.method,
                lora_rank=options.lora_rank,
                lora_alpha=options.lora_alpha,
                lora_targets=options.lora_targets,
                lora_dropout=options.lora_dropout,
                frozen_dtype=options.frozen_dtype,
                device=options.device,
                memory_limit=options.memory_limit,
                headroom=options.headroom,
                budget=options.budget,
                max_trials=options.max_trials,
                numerics=options.numerics,
                fix=_pairs("--fix", options.fix),
                allow=_lists("--allow", options.allow),
                forbid=_lists("--forbid", options.forbid),
                study=options.study,
                storage=options.storage,
                fresh=options.fresh,
                run=None
                if options.samples is None
                else Run(samples=options.samples, epochs=options.epochs, price_per_hour=options.price),
                seed=options.seed,
                trust_remote_code=options.trust_remote_code,
                trial_timeout=options.trial_timeout,
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
    made.add_argument("model", metavar="MODEL", help="a local folder, or a model's hub name (weights are not needed)")
    made.add_argument("--version", action="version", version=f"autofit {__version__}")
    job = made.add_argument_group("the training job")
    job.add_argument(
        "--effective-batch",
        type=whole_number,
        required=True,
        metavar="N",
        help="samples per optimizer step; kept exactly",
    )
    job.add_argument(
        "--seq-len",
        type=whole_number,
        metavar="N",
        help="tokens in every sample (default: 1024, or what the model can)",
    )
    job.add_argument("--data", metavar="FILE", help="the training set: txt, jsonl, csv, parquet, a datasets folder")
    job.add_argument("--text-field", metavar="NAMES", help="the field of --data that holds the text (default: text)")
    job.add_argument("--lengths", metavar="FILE", help="tokens of each sample, instead of --data: one number a line")
    job.add_argument("--max-length", type=whole_number, metavar="N", help="cut samples of --data and --lengths")
    job.add_argument(
        "--tokens-per-word", type=positive_number, metavar="X", help="estimate --data without the model's tokenizer"
    )
    job.add_argument("--task", choices=TASK_NAMES, metavar="TASK", help=f"one of {', '.join(TASK_NAMES)}")
    job.add_argument("--method", choices=METHODS, default="full", help="train everything (default), or adapters")
    job.add_argument("--lora-rank", type=whole_number, default=Adapter.rank, metavar="N", help="default: 16")
    job.add_argument("--lora-alpha", type=whole_number, metavar="N", help="default: twice the rank")
    job.add_argument("--lora-targets", default=Adapter.targets, metavar="NAMES", help="default: all-linear")
    job.add_argument("--lora-dropout", type=float, default=Adapter.dropout, metavar="X", help="default: 0")
    job.add_argument(
        "--frozen-dtype", choices=FROZEN_DTYPES, default="auto", help="of frozen weights (default: the precision's)"
    )
    job.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
    place = made.add_argument_group("the device")
    place.add_argument("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda:0 ...")
    place.add_argument("--memory-limit", metavar="SIZE", help="fit on a card this large, such as 24GiB; enforced")
    place.add_argument(
        "--headroom", default="5%", metavar="SHARE", help="share of it that must stay free (default: 5%%)"
    )
    search = made.add_argument_group("the search")
    search.add_argument(
        "--numerics",
        default="standard",
        choices=("exact", "standard", "aggressive"),
        help="how far a choice may move the numbers (default: standard: autocast and 8-bit optimizer state too)",
    )
    search.add_argument("--fix", action="append", default=[], metavar="KNOB=VALUE", help="search only this value")
    search.add_argument(
        "--allow", action="append", default=[], metavar="KNOB=VALUE", help="search it whatever --numerics says"
    )
    search.add_argument("--forbid", action="append", default=[], metavar="KNOB=VALUE", help="do not search it")
    search.add_argument("--budget", default="10m", metavar="TIME", help="time for the whole search (default: 10m)")
    search.add_argument("--max-trials", type=whole_number, metavar="N", help="trials for the whole search")
    search.add_argument(
        "--trial-timeout", default="10m", metavar="TIME", help="end a trial that hangs this long (default: 10m)"
    )
    search.add_argument("--seed", type=int, default=0, metavar="N", help="of the model's weights and tokens")
    kept = made.add_argument_group("the study")
    kept.add_argument("--study", metavar="NAME", help="its name (default: made from the job and the device)")
    kept.add_argument("--fresh", action="store_true", help="forget what was measured and begin anew")
    add_study_options(kept)  # type: ignore[arg-type]
    shown = made.add_argument_group("what comes out")
    shown.add_argument(
        "--export", action="append", default=[], metavar="FORMAT=PATH", help="training-arguments=..., json=..."
    )
    shown.add_argument("--json", action="store_true", help="one JSON document on stdout and nothing else there")
    shown.add_argument("--quiet", action="store_true", help="no progress on stderr")
    shown.add_argument("--samples", type=whole_number, metavar="N", help="samples of the whole run: tells its hours")
    shown.add_argument("--epochs", type=positive_number, default=1.0, metavar="N", help="of the whole run (default: 1)")
    shown.add_argument("--price", type=positive_number, metavar="P", help="of an hour: tells the run's cost")
    return made


def _print_result(result: SearchResult, *, as_json: bool) -> None:
    from autofit.cli.show import print_result

    print_result(result, as_json=as_json)


def _pair(flag: str, text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise UserError(f"{flag} takes KNOB=VALUE, such as precision=bf16; not '{text}'.")
    return name, value


def _pairs(flag: str, texts: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for name, value in (_pair(flag, text) for text in texts):
        if pairs.get(name, value) != value:
            raise UserError(f"{flag} {name} is given twice: {pairs[name]} and {value}; keep one.")
        pairs[name] = value
    return pairs


def _lists(flag: str, texts: list[str]) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = defaultdict(list)
    for name, value in (_pair(flag, text) for text in texts):
        lists[name].append(value)
    return dict(lists)


def _resume(words: list[str]) -> str:
    return shlex.join(["autofit", *(word for word in words if word != "--fresh")])
