"""``autofit doctor``: available choices, here or in a program, and reasons against the others; a trial run again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from autofit.cli.options import Parser, add_study_options
from autofit.cli.run import split
from autofit.device.kinds import kind_of

if TYPE_CHECKING:
    from autofit.job.situation import Situation


def main(words: list[str]) -> int:
    """Print the findings, or replay a trial; the exit code."""
    parser = Parser(
        prog="autofit doctor",
        usage="autofit doctor [options] [MODEL | -- COMMAND]",
        description="The device, the libraries, and every choice of every knob: available, or why not; "
        "for a model, or in a training program of your own.",
    )
    parser.add_argument("model", nargs="?", default="EleutherAI/pythia-70m", metavar="MODEL", help="for its attention")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda:0 ...")
    parser.add_argument("--report", action="store_true", help="the environment as Markdown, for a bug report")
    parser.add_argument("--replay", type=int, metavar="TRIAL", help="run this trial of a study again, and show its log")
    parser.add_argument("--study", metavar="NAME", help="the study of --replay (default: the newest)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
    add_study_options(parser)
    ours, command = split(words)
    options = parser.parse_args(ours)
    if options.replay is not None:
        return _replay(options.study, options.replay, options.storage)
    if command:
        return _examine_program(command, options.device)
    from autofit import api

    situation = api.examine(options.model, device=options.device, trust_remote_code=options.trust_remote_code)
    if options.report:
        from autofit.report.environment import environment_report

        sys.stdout.write(environment_report(situation))
        return 0
    model = situation.model
    _print_findings(
        situation,
        f"{options.model}: {model.model_type}, {model.num_parameters:,} parameters, "
        f"positions {model.max_positions or 'without limit'}",
    )
    return 0


def _examine_program(command: list[str], device: str) -> int:
    from autofit.own_program import ProgramRequest, describe, examine_program

    facts, situation, not_predicted = examine_program(ProgramRequest(command=tuple(command), device=device))
    _print_findings(situation, f"{situation.workload.model}: {describe(facts)}")
    print(f"\nnot predicted: {not_predicted}" if not_predicted else "\npredicted by tracing its own steps")
    return 0


def _print_findings(situation: Situation, about: str) -> None:
    """Print the device, the libraries, and every choice of every knob with why it cannot be had where it cannot."""
    from rich.padding import Padding
    from rich.text import Text

    from autofit.knobs import KNOBS
    from autofit.knobs.space import why_unavailable
    from autofit.report.console import output_console
    from autofit.units import format_bytes

    console = output_console()
    device = situation.device
    label = kind_of(device).label(device.index)
    console.print(f"{label}: {device.name}, {format_bytes(device.memory_bytes)}")
    console.print(", ".join(f"{name} {version}" for name, version in situation.libraries.versions.items()))
    console.print(f"{about}\n")
    for row in KNOBS:
        console.print(f"{row.name}: {row.question}")
        if situation.program is not None and row.name in situation.program.own:
            console.print(Padding(Text(f"the program's: {situation.program.own[row.name]}", style="dim"), (0, 0, 0, 2)))
            continue
        for choice in row.choices:
            reason = why_unavailable(row, choice, situation)
            line = f"{choice.value} ({choice.numerics.label}): {reason or choice.title}"
            console.print(
                Padding(Text(f"{'no ' if reason else 'yes'} {line}", style="dim" if reason else ""), (0, 0, 0, 2))
            )


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
