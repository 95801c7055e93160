"""The report at the end of a search: table, failures, recommendation, code to paste, cost of a run."""

from __future__ import annotations

import shlex
import textwrap
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autofit.errors import printable
from autofit.job.tasks import task_named
from autofit.job.workload import Workload
from autofit.knobs import KNOBS
from autofit.knobs.knob import PROGRAMS_OWN
from autofit.knobs.train_config import TrainConfig
from autofit.report.code import usage_code, variables_code
from autofit.report.console import PIPE_WIDTH, text_of
from autofit.report.document import document
from autofit.report.own_program import ARGUMENTS, Change, changed_command, recommended_changes
from autofit.report.table import its_storage, ranked_table, show_all
from autofit.study.result import Result
from autofit.study.trial import Trial
from autofit.units import counted, format_bytes, format_seconds

SHOWN_PER_OUTCOME = 3


def final_report(result: Result, *, width: int, everything: bool = False) -> RenderableType:
    """The whole of it, for a console of ``width`` columns."""
    parts: list[RenderableType] = [_heading(result)]
    if result.ranking.ranked:
        parts.append(ranked_table(result, width=width, most_rows=None if everything else 15))
    parts += _failures(result, everything=everything)
    parts += _recommendation(result)
    return Group(*parts)


def as_text(result: Result) -> str:
    """The whole of it as plain text."""
    return text_of(final_report(result, width=PIPE_WIDTH))


def describe(config: TrainConfig) -> str:
    """One configuration in a line: ``8 x 4, precision=bf16, ...``; what is as the reference has it is left out."""
    rest = [f"{row.name}={config[row.name]}" for row in KNOBS if config[row.name] not in (row.reference, PROGRAMS_OWN)]
    return ", ".join([config.split, *rest])


def _heading(result: Result) -> Text:
    line = Text()
    line.append(printable(result.record.workload.model), style="bold")
    line.append(f"  {heading_line(result)}")
    if result.stopped:
        line.append(f"\n{count_trials(result.trials)}; stopped because {result.stopped}.", style="dim")
    return line


def heading_line(result: Result) -> str:
    """The job and the device in a line, the model's name apart."""
    workload, limits = result.record.workload, result.situation.limits
    return (
        f"{_kind(result)}, {batch_of(workload)}, {_samples(workload)}, "
        f"on {result.situation.device.name}, limit {format_bytes(limits.memory_bytes)} less {limits.headroom:.0%}"
    )


def batch_of(workload: Workload) -> str:
    """The effective batch, and how many processes share it, in a few words."""
    processes = "" if workload.processes == 1 else f" in {workload.processes} processes"
    return f"effective batch {workload.effective_batch}{processes}"


def _kind(result: Result) -> str:
    """Model and method of the training, in a few words."""
    program, workload = result.situation.program, result.record.workload
    if program is not None:
        return ", ".join([f"{program.model} in {program.trainer}", *program.details])
    return f"{workload.task}{_method(workload)}"


def _method(workload: Workload) -> str:
    adapter = workload.adapter
    names = {"lora": "LoRA", "qlora": "QLoRA"}
    return "" if adapter is None else f", {names[workload.method]} of rank {adapter.rank}"


def count_trials(trials: Sequence[Trial]) -> str:
    """Numbers of configurations tried and of runs that confirmed them."""
    ran = [trial for trial in trials if trial.was_run]
    whole = sum(trial.whole for trial in ran)
    tried = len({trial.config for trial in ran})
    text = f"{counted(tried, 'configuration')} tried"
    return text + (f", {counted(whole, 'whole run')} to confirm" if whole else "")


def _samples(workload: Workload) -> str:
    if task_named(workload.task).reads == "images":
        return "images"
    if workload.lengths.all_equal:
        return f"sequence {workload.sequence_length}"
    return workload.lengths.describe()


def _failures(result: Result, *, everything: bool) -> list[RenderableType]:
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in result.ranking.failed:
        groups[trial.outcome.value].append(trial)
    if not groups:
        return []
    lines = [Text("Not ranked", style="bold")]
    for name, trials in groups.items():
        shown = trials if everything else trials[:SHOWN_PER_OUTCOME]
        lines.append(Text(f"{name} ({trials[0].outcome.meaning}): {len(trials)}"))
        for trial in shown:
            lines.append(Text(f"  {describe(trial.config)}: {trial.reason}", style="dim"))
        if len(trials) > len(shown):
            lines.append(Text(f"  ... and {len(trials) - len(shown)} more: {show_all(result)}", style="dim"))
    return [Padding(Group(*lines), (0, 0, 1, 0))]


def _recommendation(result: Result) -> list[RenderableType]:
    recommendation = result.recommendation
    if recommendation is None:
        return []
    reasons = Group(*(_bullet(reason) for reason in recommendation.reasons))
    parts: list[RenderableType] = []
    if recommendation.warning:
        parts += [Text(recommendation.warning, style="bold"), Text("")]
    parts += _what_to_use(result) if result.situation.program is None else _what_to_change(result)
    parts += [
        Text(""),
        Text("Because", style="bold"),
        Padding(reasons, (0, 0, 1, 0)),
    ]
    if result.run is not None:
        parts += [Text(run_line(result)), Text("")]
    command = (
        f"autofit export training-arguments=train_args.py --study {shlex.quote(result.study)}{its_storage(result)}"
    )
    parts.append(pasteable(f"Export: {command}", style="dim"))
    return parts


def _what_to_use(result: Result) -> list[RenderableType]:
    assert result.recommendation is not None
    code = "\n".join(filter(None, (variables_code(result.recommendation), usage_code(result))))
    return [Text("Use this", style="bold"), pasteable(textwrap.indent(code, "  "))]


def _what_to_change(result: Result) -> list[RenderableType]:
    """The settings of a program that differ, and its command with them where they are flags."""
    program, changes = result.situation.program, recommended_changes(result)
    assert program is not None
    if not changes:
        return [Text("Change nothing: your settings are the best that was found", style="bold")]
    width = max(len(change.name) for change in changes)
    lines = [f"  {each.name.ljust(width)}  {each.before} -> {each.after}{_set_in(each)}" for each in changes]
    parts: list[RenderableType] = [Text("Change this in your program", style="bold"), pasteable("\n".join(lines))]
    command = changed_command(program, changes)
    if command is not None:
        parts += [Text(""), Text("As a command", style="bold"), pasteable(f"  {command}")]
    return parts


def _set_in(change: Change) -> str:
    return "" if change.place == ARGUMENTS else f"   ({change.place})"


def pasteable(text: str, style: str = "") -> Text:
    """Text that is neither wrapped nor filled up to the terminal's width."""
    return Text(text, style=style, no_wrap=True, overflow="ignore")


def _bullet(reason: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    grid.add_row("  -", Text(reason))
    return grid


def run_line(result: Result) -> str:
    """Steps, hours and cost of the whole run."""
    facts = document(result)["run"]
    assert result.run is not None
    seconds = facts["hours"] * 3600
    line = f"The whole run: {facts['steps']:,} optimizer steps, {format_seconds(seconds)} of steps alone"
    if facts["cost"] is not None:
        line += f", cost {facts['cost']:,.2f} (in the currency of --price, {result.run.price_per_hour:g} per GPU-hour)"
    return line + "."
