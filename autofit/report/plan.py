"""A plan and an estimate, printed: tables, bars of memory by category, what would help. All of it is predicted."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autofit.job.situation import Limits
from autofit.job.workload import Workload
from autofit.knobs import KNOBS, numerics_of
from autofit.knobs.train_config import TrainConfig
from autofit.planning.result import CardPlan, Estimate, Plan, PlannedConfig
from autofit.report.text import batch_of, describe
from autofit.study.prediction import Prediction, Verdict
from autofit.units import format_bytes, format_rate, format_seconds

BAR_LETTERS = {
    "weights": "W",
    "gradients": "G",
    "optimizer_state": "O",
    "autocast_copies": "C",
    "activations": "A",
    "logits_and_loss": "L",
    "inputs": "i",
    "temporaries": "t",
    "gathered": "p",
    "allocator_slack": "s",
    "workspaces": "w",
    "context": "x",
    "calibration": "c",
}
LEAST_SHOWN = 0.01
"""Share of a bar from which on its letter is explained."""
BAR_STYLES = {"W": "blue", "G": "cyan", "O": "magenta", "C": "bright_blue", "A": "green", "L": "yellow", "s": "dim"}


def plan_report(plan: Plan, *, width: int) -> RenderableType:
    """The whole of it, for a console of ``width`` columns."""
    parts: list[RenderableType] = [_plan_heading(plan)]
    if len(plan.cards) > 1:
        parts.append(_cards_table(plan, width))
    else:
        for card in plan.cards:
            parts += _card_details(card, plan, width)
    parts += _nothing_fits(plan)
    parts.append(Text(_about(plan), style="dim"))
    return Group(*parts)


def estimate_report(found: Estimate, *, width: int) -> RenderableType:
    """One configuration byte by byte."""
    prediction = found.prediction
    usable = found.limits.usable_bytes
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("what is alive at the peak")
    table.add_column("predicted", justify="right")
    table.add_column("share", justify="right")
    for name, size in prediction.bytes_by_category.items():
        if size:
            table.add_row(_words(name), format_bytes(size), f"{size / prediction.total_bytes:.1%}")
    table.add_row("together", format_bytes(prediction.total_bytes), "100.0%", style="bold")
    blocks = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for title in ("largest blocks at the peak", "each", "together", "for"):
        blocks.add_column(title, justify="left" if title in ("largest blocks at the peak", "for") else "right")
    for size, operator, category, number in found.largest_blocks:
        made = f"{number} x {operator.removeprefix('aten::')}" if number > 1 else operator.removeprefix("aten::")
        blocks.add_row(made, format_bytes(size), format_bytes(size * number), _words(category))
    phases = ", ".join(f"{name} {format_bytes(size)}" for name, size in found.phase_peaks.items() if name != "before")
    lines = [
        f"{found.card.device.name}: {_verdict_words(prediction)}; it needs {format_bytes(prediction.total_bytes)} of "
        f"{format_bytes(usable)} (its {format_bytes(found.card.device.memory_bytes)} less headroom).",
        f"Most alive in each part of a step, without context and allocator: {phases}.",
    ]
    if prediction.paged_bytes:
        lines.append(f"{format_bytes(prediction.paged_bytes)} of optimizer state may be paged out and are not counted.")
    if prediction.step_seconds and found.card.rates is not None and prediction.verdict is not Verdict.NO:
        lines.append(f"A step takes {_range(prediction.step_seconds)} (a range: this card was not measured).")
    lines += [f"Note: {note}." for note in prediction.notes]
    return Group(
        _heading(found.workload, found.config),
        _bar(prediction, usable, width),
        Padding(table, (1, 0, 0, 0)),
        blocks,
        *(Text(line) for line in lines),
    )


def _plan_heading(plan: Plan) -> Text:
    line = Text()
    line.append(plan.workload.model, style="bold")
    line.append(f"  {_job(plan.workload)}\n")
    return line


def _heading(workload: Workload, config: TrainConfig) -> Text:
    line = Text()
    line.append(workload.model, style="bold")
    line.append(f"  {_job(workload)}\n")
    settings = ", ".join(
        f"{row.name}={config[row.name]}"
        for row in KNOBS
        if not row.is_of_programs and (workload.processes > 1 or not row.is_of_processes)
    )
    line.append(f"{config.split}, {settings}\n")
    return line


def _job(workload: Workload) -> str:
    lengths = f"sequence {workload.sequence_length}" if workload.lengths.all_equal else workload.lengths.describe()
    method = "" if workload.method == "full" else f", {workload.method}"
    return f"{workload.task}{method}, {batch_of(workload)}, {lengths}"


def _card_details(card: CardPlan, plan: Plan, width: int) -> list[RenderableType]:
    usable = Limits(memory_bytes=card.card.device.memory_bytes, headroom=plan.headroom).usable_bytes
    parts: list[RenderableType] = [
        Text(f"{card.card.device.name}, {format_bytes(card.card.device.memory_bytes)} less {plan.headroom:.0%}")
    ]
    if card.refusal:
        parts.append(Text(f"Not predicted: {card.refusal}"))
        return [*parts, Text("")]
    for number, each in enumerate(card.configs, start=1):
        title = Text(f"{number}. {describe(each.config)}", style="bold" if number == 1 else "")
        title.append(f"  ({', '.join(numerics.label for numerics in numerics_of(dict(each.config)))})", style="dim")
        parts += [title, Padding(_bar(each.prediction, int(usable), width - 3), (0, 0, 0, 3))]
        parts.append(Padding(Text(_figures(each)), (0, 0, 1, 3)))
    return parts


def _figures(each: PlannedConfig) -> str:
    words = [f"{_verdict_words(each.prediction)}, needs {format_bytes(each.prediction.total_bytes)}"]
    if each.prediction.paged_bytes:
        words.append(f"and {format_bytes(each.prediction.paged_bytes)} of paged state")
    if each.step_seconds is not None and each.tokens_per_second is not None:
        fast, slow = each.tokens_per_second
        words.append(f"{_range(each.step_seconds)} a step, {format_rate(slow)} to {format_rate(fast)} tokens/s")
    if each.cost_per_million_tokens is not None:
        low, high = each.cost_per_million_tokens
        words.append(f"{low:.3f} to {high:.3f} per million tokens")
    return "; ".join(words)


def _cards_table(plan: Plan, width: int) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    is_wide = width >= 110
    priced = _is_priced(plan)
    titles = ["card", "has", "needs", "a step", "tokens/s", *(["per M tokens"] if priced else [])]
    for title in titles:
        table.add_column(title, justify="left" if title == "card" else "right", no_wrap=True)
    table.add_column("best that fits", overflow="fold")
    for card in plan.cards:
        table.add_row(*_card_row(card, priced=priced, is_wide=is_wide))
    return table


def _card_row(card: CardPlan, *, priced: bool, is_wide: bool) -> list[str]:
    size = format_bytes(card.card.device.memory_bytes)
    empty = ["-"] * (4 if priced else 3)
    if card.refusal:
        return [card.card.key, size, *empty, f"not predicted: {card.refusal}"]
    if not card.configs:
        return [card.card.key, size, *empty, "nothing"]
    best = card.configs[0]
    rate = "-"
    if best.tokens_per_second is not None:
        fast, slow = best.tokens_per_second
        rate = f"{format_rate(slow)}-{format_rate(fast)}"
    cost = []
    if priced:
        ends = best.cost_per_million_tokens
        cost = ["-" if ends is None else f"{ends[0]:.3f}-{ends[1]:.3f}"]
    mark = "" if best.prediction.verdict is Verdict.FITS else "borderline: "
    step = "-" if best.step_seconds is None else _range(best.step_seconds)
    words = describe(best.config) if is_wide else describe(best.config).replace("activation_checkpointing=", "ckpt=")
    return [card.card.key, size, format_bytes(best.prediction.total_bytes), step, rate, *cost, mark + words]


def _nothing_fits(plan: Plan) -> list[RenderableType]:
    """Help for the cards on which nothing fits: each way once, with the cards it is enough for."""
    without = [card for card in plan.cards if not card.configs and not card.refusal]
    if not without:
        return []
    needs: dict[str, set[int]] = {}
    enough: dict[str, list[str]] = {}
    for card in without:
        for each in card.helps:
            needs.setdefault(each.words, set()).add(each.needs_bytes)
            enough.setdefault(each.words, []).extend([card.card.key] * each.fits)
    names = ", ".join(card.card.key for card in without)
    if len(without) == len(plan.cards) > 1:
        names = "any of these cards"
    lines = [Text(f"Nothing fits on {names}. The leanest configuration needs", style="bold")]
    for words, sizes in needs.items():
        cards = "fits on " + (", ".join(enough[words]) or "none")
        # Not every card takes the same precision or attention.
        size = " to ".join(dict.fromkeys(format_bytes(each) for each in (min(sizes), max(sizes))))
        lines.append(Text(f"  {words}: {size}; {cards}"))
    return [*lines, Text("")]


def _bar(prediction: Prediction, usable: int, width: int) -> Text:
    """Memory as a bar as long as the line: a letter a category, dots for what stays free of the usable memory."""
    cells = max(20, min(width, 100)) - 2
    whole = max(usable, prediction.total_bytes)
    bar = Text("[")
    ends, drawn = 0, 0
    for name, letter in BAR_LETTERS.items():
        ends += prediction.bytes_by_category.get(name, 0)
        until = round(ends / whole * cells)
        bar.append(letter * max(0, until - drawn), style=BAR_STYLES.get(letter, ""))
        drawn = max(drawn, until)
    bar.append("." * (cells - drawn), style="dim")
    bar.append("]")
    return bar


def _about(plan: Plan) -> str:
    predictions = [each.prediction for card in plan.cards for each in card.configs]
    shown = {
        name
        for prediction in predictions
        for name, size in prediction.bytes_by_category.items()
        if size >= LEAST_SHOWN * prediction.total_bytes
    }
    letters = ", ".join(f"{letter} {_words(name)}" for name, letter in BAR_LETTERS.items() if name in shown)
    bars = f" Bars: {letters}, dots free." if len(plan.cards) == 1 and plan.cards[0].configs else ""
    costs = " Costs are in the currency of --price." if _is_priced(plan) else ""
    return (
        "Everything here is predicted and nothing was run; not yet measured on CUDA. Times are ranges, for a card that "
        f"was not measured.{bars}{costs} Answered in {format_seconds(plan.seconds)}. "
        "On the card itself 'autofit MODEL --effective-batch N' measures."
    )


def _is_priced(plan: Plan) -> bool:
    return any(card.card.price_per_hour is not None for card in plan.cards)


def _verdict_words(prediction: Prediction) -> str:
    if prediction.verdict is Verdict.BORDERLINE:
        return "borderline: what is alive fits, the allocator may not find room for it"
    return prediction.verdict.value


def _range(seconds: tuple[float, float]) -> str:
    fast, slow = (format_seconds(each) for each in seconds)
    number, _, unit = fast.partition(" ")
    # "8.0 to 13.7 s" where both ends have the same unit.
    return f"{number}-{slow}" if " " not in unit and slow.endswith(f" {unit}") else f"{fast} to {slow}"


def _words(name: str) -> str:
    return name.replace("_", " ")
