"""The ranked table: a column for every knob where the terminal is wide enough, else a second line per row."""

from __future__ import annotations

import shlex

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from autofit.job.tasks import task_named
from autofit.knobs import KNOBS, Knob
from autofit.knobs.knob import PROGRAMS_OWN
from autofit.study.ranking import LARGEST_REFERENCE_MICRO_BATCH, Ranked
from autofit.study.result import Result
from autofit.units import format_bytes, format_rate, format_seconds

_PREDICTED = ("predicted a step", "predicted needs")
_FIGURES = ("time a step", "samples/s", "tokens/s", "padding", "MFU", "needs", "free", "speed-up")
_LEFT_OUT_FIRST = ("free", "samples/s", "MFU")
"""Columns that a narrow terminal does without: what is free follows from what is needed, samples from the seconds."""


def ranked_table(result: Result, *, width: int, most_rows: int | None = 15) -> RenderableType:
    """Measured configurations, fastest first, and a line that explains the last columns."""
    rows = result.ranking.ranked[:most_rows]
    wide = _wide(result, rows)
    shown = wide if _natural_width(wide) <= width else _narrow(result, rows, width)
    return Group(shown, Text(_explanation(result, len(rows)), style="dim"), Text(""))


def plain_rows(result: Result, *, most_rows: int | None) -> list[list[str]]:
    """The table's titles and then its rows as plain words, but for what was predicted: for pages of other kinds."""
    knobs = telling_knobs(result)
    titles = ["#", "micro x acc", *(row.title for row in knobs), *figure_titles(result), "numerics", "measured"]
    rows = [titles]
    for each in result.ranking.ranked[:most_rows]:
        settings = [str(each.trial.config[row.name]) for row in knobs]
        figures = figures_of(each, result)
        rows.append(
            [
                _place(each, result),
                each.trial.config.split,
                *settings,
                *figures,
                numerics_of_row(each),
                evidence_of(each),
            ]
        )
    return rows


def _natural_width(table: Table) -> int:
    """Columns it takes with nothing cut."""
    console = Console(width=1000)
    return Measurement.get(console, console.options, table).maximum


def _wide(result: Result, rows: tuple[Ranked, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("micro\nx acc", no_wrap=True)
    telling = telling_knobs(result)
    for row in telling:
        table.add_column(row.title, no_wrap=True)
    predicted = _any_predicted(rows)
    for title in [*figure_titles(result), *(_PREDICTED if predicted else ())]:
        table.add_column(title.replace(" a ", " a\n").replace("s/s", "s\n/s"), justify="right", no_wrap=True)
    table.add_column("numerics", overflow="fold")
    table.add_column("measured", no_wrap=True)
    for each in rows:
        settings = [str(each.trial.config[row.name]) for row in telling]
        figures = [*figures_of(each, result), *(_predicted(each) if predicted else ())]
        cells = [
            _place(each, result),
            each.trial.config.split,
            *settings,
            *figures,
            numerics_of_row(each),
            evidence_of(each),
        ]
        table.add_row(*cells, style="bold" if each is result.ranking.best else "")
    return table


def _narrow(result: Result, rows: tuple[Ranked, ...], width: int) -> RenderableType:
    telling = telling_knobs(result)
    lines = [["#", "micro x acc", *figure_titles(result)]]
    lines += [[_place(each, result), each.trial.config.split, *figures_of(each, result)] for each in rows]
    lines = _fitting(lines, width)
    widths = _widths(lines)
    text = []
    for number, line in enumerate(lines):
        aligned = [
            cell.ljust(width) if place == 1 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        each = rows[number - 1]
        first = number > 0 and each is result.ranking.best
        text.append(Text("  ".join(aligned), style="bold" if first or not number else "", no_wrap=True))
        if number:
            settings = " ".join(_word(row, str(each.trial.config[row.name])) for row in telling)
            indent = " " * (widths[0] + 2)
            said = f"{indent}{settings} ({numerics_of_row(each)}; {evidence_of(each)})"
            text.append(Text(said, style="" if first else "dim"))
            if each.trial.prediction is not None:
                text.append(Text("{}predicted {}, {}".format(indent, *_predicted(each)), style="dim"))
    return Group(Text(""), *text, Text(""))


def _fitting(lines: list[list[str]], width: int) -> list[list[str]]:
    """The lines without the columns that are left out first, until they fit."""
    for title in _LEFT_OUT_FIRST:
        widths = _widths(lines)
        if sum(widths) + 2 * (len(widths) - 1) <= width:
            break
        if title in lines[0]:
            place = lines[0].index(title)
            lines = [[*line[:place], *line[place + 1 :]] for line in lines]
    return lines


def _widths(lines: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def telling_knobs(result: Result) -> list[Knob]:
    """The knobs that were in question: of several measured values, or of another than the reference's."""
    telling = []
    for row in KNOBS:
        values = {each.trial.config[row.name] for each in result.ranking.ranked}
        if values not in ({row.reference}, {PROGRAMS_OWN}):
            telling.append(row)
    return telling


def figure_titles(result: Result) -> list[str]:
    """Titles of the columns of figures that mean something for this job."""
    left_out = set()
    if result.record.workload.lengths.all_equal:
        left_out.add("padding")
    if task_named(result.record.workload.task).reads == "images":
        left_out.add("tokens/s")
    if all(each.trial.mfu is None for each in result.ranking.ranked):
        left_out.add("MFU")
    return [title for title in _FIGURES if title not in left_out]


def figures_of(each: Ranked, result: Result) -> list[str]:
    """A row's figures in words, one for each of ``figure_titles``."""
    measurement = each.measurement
    free = result.situation.limits.memory_bytes - measurement.memory.needed
    cells = {
        "time a step": format_seconds(measurement.step_seconds),
        "samples/s": format_rate(measurement.samples_per_second),
        "tokens/s": format_rate(measurement.tokens_per_second),
        "padding": f"{measurement.padding_share:.0%}",
        "MFU": "-" if each.trial.mfu is None else f"{each.trial.mfu:.0%}",
        "needs": format_bytes(measurement.memory.needed),
        "free": format_bytes(free),
        "speed-up": _speedup(each),
    }
    return [cells[title] for title in figure_titles(result)]


def _place(each: Ranked, result: Result) -> str:
    """Its rank, with a star where the recommendation is not the first."""
    is_starred = each is result.ranking.best and each.rank != 1
    return f"*{each.rank}" if is_starred else str(each.rank)


def evidence_of(each: Ranked) -> str:
    """Number of its whole runs; a short trial's step is extrapolated."""
    if not each.is_confirmed:
        return "short"
    rounds = len(each.measurement.rounds)
    return "whole" if rounds < 2 else f"{rounds} rounds"


def _speedup(each: Ranked) -> str:
    """Over the reference; with a mark where the two did not run side by side."""
    against = each.against_reference
    if against is None:
        return "-"
    if each.is_reference:
        return "ref"
    return f"{'' if against.rounds else '~'}{against.ratio:.2f}x"


def _any_predicted(rows: tuple[Ranked, ...]) -> bool:
    return any(each.trial.prediction is not None for each in rows)


def _predicted(each: Ranked) -> list[str]:
    """Prediction from before the trial was run, calibrated by the trials before it."""
    prediction = each.trial.prediction
    if prediction is None:
        return ["-", "-"]
    likely = prediction.likely_seconds
    return ["-" if likely is None else format_seconds(likely), format_bytes(prediction.total_bytes)]


def numerics_of_row(each: Ranked) -> str:
    """Numerics classes of its choices, in words."""
    return ", ".join(numerics.label for numerics in each.numerics)


def _word(row: Knob, value: str) -> str:
    return f"{row.label}-{value}" if row.label else value


def describe_reference(result: Result) -> str:
    """The reference in words; of several precisions only what was measured in several is the fastest."""
    reference = result.ranking.reference
    assert reference is not None
    precisions = {
        each.trial.config["precision"]
        for each in result.ranking.ranked
        if all(each.trial.config[row.name] == row.reference for row in KNOBS if row.name != "precision")
    }
    if len(precisions) > 1:
        return f"TrainingArguments' defaults in their fastest precision ({reference.config['precision']})"
    return f"TrainingArguments' defaults in {reference.config['precision']}"


def _why_not(result: Result, best: Ranked) -> str:
    before = result.ranking.ranked[: best.rank - 1]
    if all(each.trial.is_outside for each in before):
        if all(each.trial.is_baseline for each in before):
            return "is what you train with now, which this search leaves out"
        return "is what this search leaves out"
    return "did not run whole"


def show_all(result: Result) -> str:
    """The command that shows everything in a study."""
    return f"autofit show {shlex.quote(result.study)} --all{its_storage(result)}"


def its_storage(result: Result) -> str:
    """The option that names a result's storage, after a space; empty for the one that is looked in without it."""
    from autofit.study.storage import is_usual  # plans, which print tables too, load no database

    return "" if is_usual(result.storage) else f" --storage {shlex.quote(result.storage)}"


def table_notes(result: Result) -> str:
    """Sentences under the whole table: what is the same in every row, and what its words stand for."""
    return _explanation(result, len(result.ranking.ranked), has_predicted=False)


def _explanation(result: Result, shown: int, *, has_predicted: bool = True) -> str:
    sentences = []
    shown_rows = result.ranking.ranked[:shown]
    hidden = len(result.ranking.ranked) - shown
    if hidden > 0:
        sentences.append(f"{hidden} more: {show_all(result)}.")
    of_all = {row.name: result.ranking.ranked[0].trial.config[row.name] for row in KNOBS}
    folded = [row for row in KNOBS if row not in telling_knobs(result) and of_all[row.name] != PROGRAMS_OWN]
    same = [row.name for row in folded if row.why_not_asked(result.situation) is None]
    if same:
        sentences.append(f"Same in every row: {', '.join(f'{name}={of_all[name]}' for name in same)}.")
    if has_predicted and _any_predicted(result.ranking.ranked):
        sentences.append("predicted: before the trial ran, calibrated on earlier trials.")
    if "MFU" in figure_titles(result):
        sentences.append(f"MFU: share of the step that the model's arithmetic takes at {peak_in_words(result)}.")
    reference = result.ranking.reference
    if reference is not None and reference.is_baseline:
        sentences.append("ref: your settings.")
    elif reference is not None:
        sentences.append(f"ref: {describe_reference(result)}, micro-batch up to {LARGEST_REFERENCE_MICRO_BATCH}.")
    if any(each.against_reference is not None and not each.against_reference.rounds for each in shown_rows):
        sentences.append("~: not run side by side with it.")
    best = result.ranking.best
    if best is not None and best.rank != 1:
        sentences.append(f"*: recommended; what ranks before it {_why_not(result, best)}.")
    if any(not each.is_confirmed for each in shown_rows):
        sentences.append("short: measured in a short trial, not confirmed.")
    return " ".join(sentences)


def peak_in_words(result: Result) -> str:
    """The rates that the utilization is held against."""
    works = (each.trial.prediction.work for each in result.ranking.ranked if each.trial.prediction is not None)
    whose = next((work.peaks for work in works if work is not None), "measured")
    return "the card's published dense peak" if whose == "published" else "the rate measured here in plain products"
