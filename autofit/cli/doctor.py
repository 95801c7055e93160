"""``autofit doctor``: what can be had here, what not and why; and one stored trial run again by hand."""

from __future__ import annotations

import sys

from autofit.cli.options import Parser, add_study_options


def main(words: list[str]) -> int:
    """Print the findings, or replay a trial; the exit code."""
    parser = Parser(
        prog="autofit doctor",
        description="The device, the libraries, and every choice of every knob: available, or why not.",
    )
    parser.add_argument("model", nargs="?", default="EleutherAI/pythia-70m", metavar="MODEL", help="for its attention")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda:0 ...")
    parser.add_argument("--replay", type=int, metavar="TRIAL", help="run this trial of a study again, and show its log")
    parser.add_argument("--study", metavar="NAME", help="the study of --replay (default: the newest)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
    add_study_options(parser)
    options = parser.parse_args(words)
    if options.replay is not None:
        return _replay(options.study, options.replay, options.storage)
    return _examine(options.model, options.device, options.trust_remote_code)


def _examine(model: str, device: str, trust_remote_code: bool) -> int:
    from rich.padding import Padding
    from rich.text import Text

    from autofit import api
    from autofit.knobs import KNOBS
    from autofit.report.console import output_console
    from autofit.units import format_bytes

    situation = api.examine(model, device=device, trust_remote_code=trust_remote_code)
    console = output_console()
    console.print(f"{situation.device.label}: {situation.device.name}, {format_bytes(situation.device.memory_bytes)}")
    console.print(", ".join(f"{name} {version}" for name, version in situation.libraries.versions.items()))
    console.print(
        f"{model}: {situation.model.model_type}, {situation.model.num_parameters:,} parameters, "
        f"positions {situation.model.max_positions or 'without limit'}\n"
    )
    for row in KNOBS:
        console.print(f"{row.name}: {row.question}")
        for choice in row.choices:
            reason = choice.unavailable(situation)
            line = f"{choice.value} ({choice.numerics.label}): {reason or choice.title}"
            console.print(
                Padding(Text(f"{'no ' if reason else 'yes'} {line}", style="dim" if reason else ""), (0, 0, 0, 2))
            )
    return 0


def _replay(study: str | None, number: int, storage: str | None) -> int:
    from pathlib import Path

    from autofit import api
    from autofit.units import format_seconds

    trial, result, by_hand = api.replay(study, number, storage=storage)
    if result.log_path is not None:
        sys.stdout.write(Path(result.log_path).read_text(encoding="utf-8", errors="replace"))
    print(f"then: {trial.outcome.value} {trial.reason}")
    took = "" if result.measurement is None else f", {format_seconds(result.measurement.step_seconds)} a step"
    print(f"now: {result.outcome.value} {result.reason}{took}")
    print(f"by hand: {by_hand}")
    return 0
