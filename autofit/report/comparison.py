"""Two studies beside each other: what differs between their jobs, their best configurations and their figures."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autofit.job.method import Adapter
from autofit.study.result import Result
from autofit.units import format_bytes, format_rate, format_seconds

_MISSING = "-"


def comparison_report(first: Result, second: Result) -> RenderableType:
    """A row for each thing in which the studies differ, and one sentence on their speeds."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for title in ("", first.study, second.study):
        table.add_column(title, overflow="fold")
    ours, theirs = _facts(first), _facts(second)
    different = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    for name in different:
        table.add_row(name, ours.get(name, _MISSING), theirs.get(name, _MISSING))
    shown = table if different else Text("The same job, settings and figures.")
    return Group(shown, Text(speeds_compared(first, second)))


def speeds_compared(first: Result, second: Result) -> str:
    """The sentence: samples a second of the best configurations of one job, which never ran in the same rounds."""
    if first.ranking.best is None or second.ranking.best is None:
        missing = first.study if first.ranking.best is None else second.study
        return f"Study '{missing}' has no measured configuration to compare."
    ours, theirs = (each.record.workload for each in (first, second))
    if any(getattr(ours, name) != getattr(theirs, name) for name in _OF_THE_JOB):
        return "They are of different jobs, so their speeds say nothing about each other."
    ratio = second.ranking.best.measurement.samples_per_second / first.ranking.best.measurement.samples_per_second
    return (
        f"The best of '{second.study}' trains {ratio:.2f} times as many samples a second as the best of "
        f"'{first.study}'. They were measured at different times, not side by side."
    )


def _facts(result: Result) -> dict[str, str]:
    """Everything that is compared, by the name it is shown under."""
    record, best = result.record, result.ranking.best
    facts = {
        "model": record.workload.model,
        "task": record.workload.task,
        "method": record.workload.method,
        "adapter": _adapter(record.workload.adapter),
        "effective batch": str(record.workload.effective_batch),
        "processes": str(record.workload.processes),
        "samples": record.workload.lengths.describe(),
        "device": record.device.name,
        "limit": format_bytes(record.limits.memory_bytes),
        **record.versions,
        "trials": str(sum(trial.was_run for trial in result.trials)),
    }
    if best is not None:
        facts |= {"micro x acc": best.trial.config.split}
        facts |= {name: str(value) for name, value in best.trial.values.items() if name not in _OF_THE_SPLIT}
        facts |= {
            "time a step": format_seconds(best.measurement.step_seconds),
            "samples/s": format_rate(best.measurement.samples_per_second),
            "needs": format_bytes(best.measurement.memory.needed),
            "confirmed": "yes" if best.is_confirmed else "no",
        }
    return facts


def _adapter(adapter: Adapter | None) -> str:
    if adapter is None:
        return _MISSING
    return (
        f"rank {adapter.rank}, alpha {adapter.alpha}, dropout {adapter.dropout:g}, {adapter.targets}, "
        f"frozen weights in {adapter.frozen_dtype}"
    )


_OF_THE_JOB = ("model_digest", "task", "method", "adapter", "lengths")
_OF_THE_SPLIT = ("micro_batch_size", "accumulation_steps")
