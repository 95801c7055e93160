"""An explanation as a table of what is one knob away from the recommendation, and sentences."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autofit.driver.explanation import Explanation, Neighbour
from autofit.report.text import describe
from autofit.units import format_bytes, format_seconds


def explanation_report(explanation: Explanation) -> RenderableType:
    """The recommendation, its neighbours, what was never in question, what less memory would change."""
    best = explanation.best
    config = best.trial.config
    seconds = format_seconds(best.measurement.step_seconds)
    needed = format_bytes(best.measurement.memory.needed)
    head = f"Recommended: {describe(config)}: {seconds} a step, {needed}."
    lines = [
        Text(head, style="bold"),
        Text(
            f"{explanation.num_tried} of {explanation.num_configs} configurations were tried. One knob changed gives:"
        ),
    ]
    after = [Text(sentence) for sentence in explained_sentences(explanation)]
    return Group(*lines, _table(explanation), *after)


def explained_sentences(explanation: Explanation) -> list[str]:
    """Sentences on what less memory would change, and on what was never in question."""
    return [_less_memory(explanation), *_never_in_question(explanation)]


def _table(explanation: Explanation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("knob", no_wrap=True)
    table.add_column("instead", overflow="fold")
    table.add_column("a step", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("how it is known", overflow="fold")
    last = ""
    for each in explanation.neighbours:
        table.add_row(
            each.knob if each.knob != last else "", str(each.value), _slower(each), more_memory(each), _basis(each)
        )
        last = each.knob
    return table


def _slower(each: Neighbour) -> str:
    if each.slower is None:
        return "-"
    spread = "" if each.spread is None else f" ±{100 * each.spread:.0f}"
    return f"{100 * each.slower:+.0f}{spread} %".replace("-0", "+0")


def more_memory(each: Neighbour) -> str:
    """Bytes that a neighbour needs beyond the recommendation, with their sign; a dash where they are not known."""
    if each.more_bytes is None:
        return "-"
    return f"{'+' if each.more_bytes >= 0 else '-'}{format_bytes(abs(each.more_bytes))}"


def _basis(each: Neighbour) -> str:
    return f"{each.basis}: {each.reason}" if each.reason else each.basis


def _less_memory(explanation: Explanation) -> str:
    other = explanation.less_memory
    usable = format_bytes(other.usable_bytes)
    if other.trial is None or other.slower is None:
        return f"With 10 % less memory ({usable}) nothing that was measured would fit: search again with that limit."
    if other.trial.number == explanation.best.trial.number:
        return f"With 10 % less memory ({usable}) the same would be recommended."
    return (
        f"With 10 % less memory ({usable}) the fastest that was measured is {describe(other.trial.config)}, "
        f"{abs(other.slower):.1%} {'slower' if other.slower >= 0 else 'faster by its short trial'}."
    )


def _never_in_question(explanation: Explanation) -> list[str]:
    sentences = []
    if explanation.settled:
        named = ", ".join(f"{name}={value}" for name, value in explanation.settled)
        sentences.append(f"Never in question, as only one value was left: {named}.")
    by_knob: dict[str, dict[str, list[str]]] = {}
    for refusal in explanation.refusals:
        by_knob.setdefault(refusal.knob, {}).setdefault(refusal.reason, []).append(str(refusal.value))
    for knob, reasons in by_knob.items():
        said = "; ".join(f"{', '.join(values)}: {why}" for why, values in reasons.items())
        sentences.append(f"Not searched, {knob}: {said}.")
    return sentences
