"""``autofit plan``: what fits on cards that are not here, how fast it is predicted to be, and what it costs."""

from __future__ import annotations

import json
import sys

from autofit.cli.options import (
    Parser,
    add_job_options,
    add_memory_options,
    add_output_options,
    add_space_options,
    job_of,
    lists,
    pairs,
)
from autofit.errors import UserError

NOTHING_FITS = 3
PRICE = "NAME=P, such as rtx-4090=0.40"


def main(words: list[str]) -> int:
    """Print the plan; the exit code: 0 where something fits somewhere, else 3."""
    if "--list-gpus" in words:
        return _list_gpus()
    parser = Parser(
        prog="autofit plan",
        description="Predict which configurations fit on a GPU that this machine does not have, and how fast they are. "
        "Nothing is run and no weights are fetched: a training step of the real model is traced without data.",
    )
    add_job_options(parser)
    place = parser.add_argument_group("the cards")
    place.add_argument(
        "--gpu", action="append", default=[], metavar="NAME", help="GPU name, such as rtx-4090 or h100, or all"
    )
    add_memory_options(place)
    place.add_argument("--list-gpus", action="store_true", help="the names that --gpu takes")
    place.add_argument("--price", action="append", default=[], metavar="NAME=P", help="price per hour of this card")
    add_space_options(parser.add_argument_group("what may be planned"))
    add_output_options(parser)
    options = parser.parse_args(words)
    from autofit.planning import planner
    from autofit.report.progress import show_progress

    with show_progress(quiet=options.quiet) as progress:
        plan = planner.plan(
            options.model,
            **job_of(options),
            gpus=options.gpu,
            memory=options.memory,
            headroom=options.headroom,
            numerics=options.numerics,
            fix=pairs("--fix", options.fix),
            allow=lists("--allow", options.allow),
            forbid=lists("--forbid", options.forbid),
            prices=_prices(options.price),
            progress=progress,
        )
    if options.json:
        sys.stdout.write(json.dumps(plan.document(), indent=2) + "\n")
    else:
        from autofit.report.console import output_console
        from autofit.report.plan import plan_report

        console = output_console()
        console.print(plan_report(plan, width=console.width))
    return 0 if any(card.configs for card in plan.cards) else NOTHING_FITS


def _prices(texts: list[str]) -> dict[str, float]:
    found = {}
    for name, text in pairs("--price", texts, PRICE).items():
        try:
            found[name] = float(text)
        except ValueError:
            raise UserError(f"--price takes {PRICE}; not '{name}={text}'.") from None
    return found


def _list_gpus() -> int:
    from autofit.device.gpus import all_gpus
    from autofit.units import format_bytes

    for gpu in all_gpus():
        print(f"{gpu.key:28} {format_bytes(gpu.memory_bytes):>9}  {gpu.name}")
    return 0
