"""The ranked table, for wide and for narrow terminals."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from autofit.knobs import KNOBS
from autofit.ranking import Ranked
from autofit.result import Result
from autofit.units import format_bytes, format_rate, format_seconds

WIDE = 132
"""From this many columns on every knob has its own."""


def ranked_table(result: Result, *, width: int, most_rows: int | None = 15) -> Table:
    """Measured configurations, fastest first. Narrow tables name the knobs that differ in one column.

    A knob that has the same value in every row stands in the caption only, in narrow tables.
    """
    rows = result.ranking.ranked[:most_rows]
    differing = [row.name for row in KNOBS if len({each.trial.config[row.name] for each in result.ranking.ranked}) > 1]
    wide = width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=None, caption_justify="left")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("micro\nx acc", no_wrap=True)
    for row in KNOBS if wide else ():
        table.add_column(row.title, no_wrap=True)
    if differing and not wide:
        table.add_column("settings", overflow="fold", min_width=12)
    table.add_column("time a\nstep", justify="right", no_wrap=True)
    table.add_column("samples\n/s", justify="right", no_wrap=True)
    table.add_column("tokens\n/s", justify="right", no_wrap=True)
    table.add_column("needs", justify="right", no_wrap=True)
    table.add_column("free", justify="right", no_wrap=True)
    table.add_column("speed\nup", justify="right", no_wrap=True)
    table.add_column("numerics", overflow="fold")
    for each in rows:
        settings = [str(each.trial.config[row.name]) for row in KNOBS] if wide else []
        if differing and not wide:
            settings = [_settings(each, differing)]
        table.add_row(*_cells(each, settings, result), style="bold" if each.rank == 1 else "")
    table.caption = _caption(result, differing, len(rows), wide)
    return table


def _cells(each: Ranked, settings: list[str], result: Result) -> list[str]:
    config, measurement = each.trial.config, each.measurement
    free = result.situation.limits.memory_bytes - measurement.memory.needed
    return [
        str(each.rank),
        f"{config.micro_batch_size} x {config.accumulation_steps}",
        *settings,
        format_seconds(measurement.step_seconds),
        format_rate(measurement.samples_per_second),
        format_rate(measurement.tokens_per_second),
        format_bytes(measurement.memory.needed),
        format_bytes(free),
        "-" if each.speedup is None else ("ref" if each.is_reference else f"{each.speedup:.2f}x"),
        ", ".join(numerics.label for numerics in each.numerics),
    ]


def _settings(each: Ranked, differing: list[str]) -> str:
    """The values of the knobs that differ, as short as they are clear."""
    words = []
    for name in differing:
        value = str(each.trial.config[name])
        words.append(f"checkpointing {value}" if name == "activation_checkpointing" else value)
    return ", ".join(words)


def _caption(result: Result, differing: list[str], shown: int, wide: bool) -> Text:
    lines = []
    first = result.ranking.best
    same = [row for row in KNOBS if row.name not in differing]
    if first is not None and same and not wide:
        values = ", ".join(f"{row.title} {first.trial.config[row.name]}" for row in same)
        lines.append(f"All with {values}.")
    hidden = len(result.ranking.ranked) - shown
    if hidden > 0:
        lines.append(f"{hidden} more: autofit show {result.study} --all")
    if result.ranking.reference is not None:
        lines.append("Speed-up is over the reference (ref): TrainingArguments' defaults in their fastest precision.")
    return Text("\n".join(lines), style="dim", justify="left")
