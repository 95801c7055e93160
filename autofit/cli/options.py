"""Options that several commands share. Imports nothing heavy: ``--help`` answers at once."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from typing import Any, NoReturn

from autofit.cli.completion import complete, is_asked
from autofit.driver.samplers import SAMPLERS
from autofit.errors import UserError
from autofit.job.method import FROZEN_DTYPES, METHODS, Adapter
from autofit.job.tasks import TASK_NAMES

SUBCOMMANDS = (
    *("run", "worker", "plan", "estimate"),
    *("list", "show", "compare", "explain", "report", "plot", "export", "verify", "doctor"),
)


class Parser(argparse.ArgumentParser):
    """argparse, with one line instead of the whole usage when something is wrong, and completion."""

    def parse_args(self, *words: Any, **keywords: Any) -> Any:
        if is_asked():
            complete(self, SUBCOMMANDS)
        return super().parse_args(*words, **keywords)

    def error(self, message: str) -> NoReturn:
        print(f"autofit: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def add_job_options(made: argparse.ArgumentParser) -> None:
    """MODEL, and what the training job is; ``job_of`` reads them."""
    made.add_argument("model", metavar="MODEL", help="a local folder, or a model's hub name (weights are not needed)")
    job = made.add_argument_group("the training job")
    job.add_argument(
        "--effective-batch",
        type=whole_number,
        required=True,
        metavar="N",
        help="samples per optimizer step; kept exactly",
    )
    job.add_argument(
        "--processes",
        type=whole_number,
        metavar="N",
        help="train in N processes together, each on a GPU of its own (default: 1; a search in which nothing fits one "
        "GPU goes on with all of them)",
    )
    job.add_argument(
        "--seq-len",
        type=whole_number,
        metavar="N",
        help="tokens in every sample (default: 1024, or what the model can)",
    )
    job.add_argument(
        "--data", metavar="FILE", help="the training set: txt, jsonl, json, csv, tsv, parquet, a datasets folder"
    )
    job.add_argument(
        "--text-field",
        metavar="NAMES",
        help="the field of --data that holds the text (default: input_ids, text, content or sentence)",
    )
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
        "--frozen-dtype",
        choices=FROZEN_DTYPES,
        default="auto",
        help="dtype of the frozen weights (default: the precision's)",
    )
    job.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the model")


def job_of(options: argparse.Namespace) -> dict[str, Any]:
    """The job's options as ``autofit.search`` and ``autofit.plan`` take them, the model apart."""
    return {**{name: getattr(options, name) for name in _JOB}, "processes": options.processes or 1}


_JOB = (
    "effective_batch", "seq_len", "data", "text_field", "lengths", "max_length", "tokens_per_word", "task", "method",
    "lora_rank", "lora_alpha", "lora_targets", "lora_dropout", "frozen_dtype", "trust_remote_code",
)  # fmt: skip


def add_space_options(group: Any) -> None:
    """Options of the search space: ``--numerics``, ``--fix``, ``--allow``, ``--forbid``."""
    group.add_argument(
        "--numerics",
        default="standard",
        choices=("exact", "standard", "aggressive"),
        help="how much a choice may change numerical results (default: standard: autocast and quantized state, too)",
    )
    group.add_argument("--fix", action="append", default=[], metavar="KNOB=VALUE", help="search only this value")
    group.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="KNOB=VALUE",
        help="search this value even if --numerics excludes it",
    )
    group.add_argument("--forbid", action="append", default=[], metavar="KNOB=VALUE", help="do not search this value")


def add_place_options(made: argparse.ArgumentParser) -> None:
    """The present device: ``--device``, ``--memory-limit``, ``--headroom``."""
    place = made.add_argument_group("the device")
    place.add_argument("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda:0 ...")
    place.add_argument("--memory-limit", metavar="SIZE", help="fit on a card this large, such as 24GiB; enforced")
    place.add_argument(
        "--headroom", default="5%", metavar="SHARE", help="share of the memory that must stay free (default: 5%%)"
    )


def add_search_options(search: Any) -> None:
    """Options of the search itself: the space, the sampler, the limits of time and trials."""
    add_space_options(search)
    search.add_argument(
        "--sampler", default="autofit", choices=SAMPLERS, help="sampler that proposes configurations (default: autofit)"
    )
    search.add_argument("--budget", default="10m", metavar="TIME", help="time for the whole search (default: 10m)")
    search.add_argument("--max-trials", type=whole_number, metavar="N", help="trials for the whole search")
    search.add_argument(
        "--trial-timeout", default="10m", metavar="TIME", help="end a trial that takes longer (default: 10m)"
    )
    search.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed for weights and tokens (default: 0)"
    )


def add_kept_options(made: argparse.ArgumentParser) -> None:
    """Options of the study: ``--study``, ``--fresh``, ``--storage``, ``--debug``."""
    kept = made.add_argument_group("the study")
    kept.add_argument("--study", metavar="NAME", help="name of the study (default: made from the job and the device)")
    kept.add_argument("--fresh", action="store_true", help="forget what was measured and begin anew")
    add_study_options(kept)  # type: ignore[arg-type]


def add_result_options(made: argparse.ArgumentParser) -> None:
    """Options of the output: exports, JSON, the cost of the run."""
    shown = made.add_argument_group("what comes out")
    shown.add_argument(
        "--export",
        action="append",
        default=[],
        metavar="FORMAT=PATH",
        help="a file to write; 'autofit export --help' lists the formats",
    )
    shown.add_argument("--force", action="store_true", help="overwrite exported files that exist")
    shown.add_argument("--json", action="store_true", help="one JSON document on stdout and nothing else there")
    shown.add_argument("--quiet", action="store_true", help="no progress on stderr")
    shown.add_argument("--samples", type=whole_number, metavar="N", help="samples in the whole run; adds its duration")
    shown.add_argument(
        "--epochs", type=positive_number, default=1.0, metavar="N", help="epochs in the whole run (default: 1)"
    )
    shown.add_argument(
        "--price", type=positive_number, metavar="P", help="price per GPU-hour; with --samples, the cost of the run"
    )


def search_of(options: argparse.Namespace) -> dict[str, Any]:
    """Keywords of the library's calls from the place, search and study options."""
    return {
        **{name: getattr(options, name) for name in _SEARCH},
        "fix": pairs("--fix", options.fix),
        "allow": lists("--allow", options.allow),
        "forbid": lists("--forbid", options.forbid),
    }


_SEARCH = (
    "device", "memory_limit", "headroom", "budget", "max_trials", "numerics", "study", "storage", "fresh", "seed",
    "trial_timeout", "sampler",
)  # fmt: skip


def add_memory_options(group: Any) -> None:
    """A card by its memory: ``--memory``, ``--headroom``."""
    group.add_argument("--memory", metavar="SIZE", help="a card that is not in the catalogue, such as 24GiB")
    group.add_argument("--headroom", default="5%", metavar="SHARE", help="share that must stay free (default: 5%%)")


def add_output_options(made: argparse.ArgumentParser) -> None:
    """``--json``, ``--quiet``, ``--debug``."""
    made.add_argument("--json", action="store_true", help="one JSON document on stdout")
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")
    made.add_argument("--debug", action="store_true", help="show a trace when something breaks")


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """``--storage``, ``--debug``."""
    parser.add_argument(
        "--storage", metavar="URL", help="where studies are kept (default: AUTOFIT_STORAGE, else a file in ~/.autofit)"
    )
    parser.add_argument("--debug", action="store_true", help="show a trace when something breaks")


def positive_number(text: str) -> float:
    """An argparse type."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above zero, not {text}")
    return value


def whole_number(text: str) -> int:
    """An argparse type: 1 or more."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not '{text}'") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


KNOB_VALUE = "KNOB=VALUE, such as precision=bf16"


def _pair(flag: str, text: str, form: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise UserError(f"{flag} takes {form}; not '{text}'.")
    return name, value


def pairs(flag: str, texts: list[str], form: str = KNOB_VALUE) -> dict[str, str]:
    """``NAME=VALUE`` texts, each name once; ``form`` is what a user is told to give. Raises UserError."""
    found: dict[str, str] = {}
    for name, value in (_pair(flag, text, form) for text in texts):
        if found.get(name, value) != value:
            raise UserError(f"{flag} {name} is given twice: {found[name]} and {value}; keep one.")
        found[name] = value
    return found


def lists(flag: str, texts: list[str]) -> dict[str, list[str]]:
    """``KNOB=VALUE`` texts, a knob as often as wanted. Raises UserError."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, value in (_pair(flag, text, KNOB_VALUE) for text in texts):
        found[name].append(value)
    return dict(found)
