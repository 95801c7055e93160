"""Data of the report's charts: rows of plain values, in the units that the charts are drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autofit.report.explanation import more_memory
from autofit.report.text import describe
from autofit.study.ranking import Ranked
from autofit.study.result import Result
from autofit.study.trial import Trial
from autofit.units import GIB, MIB, format_bytes, format_seconds

if TYPE_CHECKING:
    from autofit.driver.explanation import Explanation

Row = dict[str, Any]
MOST_FINALISTS = 6
MOST_CURVES = 8
CATEGORIES = (
    "weights",
    "gradients",
    "optimizer_state",
    "inputs",
    "activations",
    "logits_and_loss",
    "autocast_copies",
    "temporaries",
    "gathered",
    "allocator_slack",
    "workspaces",
    "context",
)
"""Categories of a prediction's bytes, in the order in which they are stacked. What trials correct is in none."""


class Scale:
    """Units of a study's charts, from its largest values: bytes as GiB or MiB, seconds as s or ms."""

    def __init__(self, result: Result) -> None:
        measured = [each.measurement for each in result.ranking.ranked]
        largest = max((each.memory.needed for each in measured), default=GIB)
        self.memory_unit, self._bytes = ("GiB", GIB) if largest >= GIB else ("MiB", MIB)
        longest = max((each.step_seconds for each in measured), default=1.0)
        self.time_unit, self._seconds = ("s", 1.0) if longest >= 1 else ("ms", 1e-3)

    def memory(self, size: float) -> float:
        """Bytes in the study's unit."""
        return size / self._bytes

    def time(self, seconds: float) -> float:
        """Seconds in the study's unit."""
        return seconds / self._seconds


def trade_off(result: Result) -> list[Row]:
    """Seconds and bytes of every measured configuration; those on the Pareto front say so."""
    scale = Scale(result)
    rows: list[Row] = []
    least = float("inf")
    front: set[int] = set()
    for each in sorted(result.ranking.ranked, key=lambda each: each.measurement.step_seconds):
        if each.measurement.memory.needed < least:
            least = each.measurement.memory.needed
            front.add(each.rank)
    for each in result.ranking.ranked:
        rows.append(
            {
                "rank": each.rank,
                "configuration": describe(each.trial.config),
                "time": scale.time(each.measurement.step_seconds),
                "memory": scale.memory(each.measurement.memory.needed),
                "said": _said(each),
                "kind": _kind(each, result),
                "front": each.rank in front,
            }
        )
    return rows


def _said(each: Ranked) -> str:
    return f"{format_seconds(each.measurement.step_seconds)} a step, {format_bytes(each.measurement.memory.needed)}"


def _kind(each: Ranked, result: Result) -> str:
    if each is result.ranking.best:
        return "recommended"
    if each.is_reference:
        return "reference"
    return "ran whole" if each.is_confirmed else "short trial"


def knob_effects(explanation: Explanation) -> list[Row]:
    """The recommendation with one knob changed: percent of a step's time, and bytes."""
    return [
        {
            "change": f"{each.knob}={each.value}",
            "slower": 100 * each.slower,
            "end": 100 * max(0.0, each.slower + (each.spread or 0.0)),
            "said": f"{100 * each.slower:+.0f} %",
            "low": None if each.spread is None else 100 * (each.slower - each.spread),
            "high": None if each.spread is None else 100 * (each.slower + each.spread),
            "memory": None if each.more_bytes is None else more_memory(each),
            "basis": each.basis,
            "reason": each.reason or None,
        }
        for each in explanation.neighbours
        if each.slower is not None
    ]


def memory_parts(result: Result) -> list[Row]:
    """Predicted bytes of the finalists by category, and beside each what was predicted in all and what was measured."""
    scale = Scale(result)
    rows: list[Row] = []
    for each in finalists(result):
        prediction = each.trial.prediction
        if prediction is None:
            continue
        for order, name in enumerate(CATEGORIES):
            size = prediction.bytes_by_category.get(name, 0)
            if size > 0:
                rows.append(
                    {
                        "configuration": label(each),
                        "category": name.replace("_", " "),
                        "order": order,
                        "memory": scale.memory(size),
                        "predicted": scale.memory(prediction.total_bytes),
                        "measured": scale.memory(each.measurement.memory.needed),
                    }
                )
    return rows


def step_parts(result: Result) -> list[Row]:
    """The finalists' step by part: as it was timed, and as the trace's operators share it."""
    scale = Scale(result)
    rows: list[Row] = []
    for each in finalists(result):
        parts = {"measured": each.measurement.seconds_by_part}
        work = None if each.trial.prediction is None else each.trial.prediction.work
        if work is not None:
            parts["predicted"] = work.seconds_by_part
        for source, seconds_by_part in parts.items():
            rows += [
                {
                    "configuration": label(each),
                    "source": source,
                    "part": name.replace("_", " "),
                    "time": scale.time(seconds),
                }
                for name, seconds in seconds_by_part.items()
            ]
    return rows


def utilization(result: Result) -> list[Row]:
    """MFU, share of the bandwidth and operations of the finalists."""
    rows: list[Row] = []
    for each in finalists(result):
        work = None if each.trial.prediction is None else each.trial.prediction.work
        if work is not None:
            seconds = each.measurement.step_seconds
            mfu, flops = work.mfu(seconds), work.model_flops
            rows.append(
                {
                    "configuration": label(each),
                    "mfu": None if mfu is None else f"{mfu:.1%}",
                    "bandwidth": f"{work.bandwidth_share(seconds):.1%}",
                    "tflop": None if flops is None else flops / 1e12,
                    "again": None if flops is None else f"{max(0.0, work.flops / flops - 1):.0%}",
                    "moved": format_bytes(work.moved_bytes),
                }
            )
    return rows


def micro_batch_curves(result: Result) -> list[Row]:
    """Samples per second against the micro-batch, of every combination that was measured at two sizes or more."""
    curves: dict[object, list[Ranked]] = {}
    for each in result.ranking.ranked:
        curves.setdefault(each.trial.config.combination(), []).append(each)
    several = [curve for curve in curves.values() if len(curve) > 1][:MOST_CURVES]
    return [
        {
            "combination": describe(each.trial.config).partition(", ")[2] or "defaults",
            "micro_batch": each.trial.config.micro_batch_size,
            "samples_per_second": each.measurement.samples_per_second,
            "said": _said(each),
        }
        for curve in several
        for each in sorted(curve, key=lambda each: each.trial.config.micro_batch_size)
    ]


def course(result: Result) -> list[Row]:
    """The trials in the order they ran: seconds spent so far, their step, its prediction, the fastest short trial."""
    scale = Scale(result)
    spent, best = 0.0, None
    rows: list[Row] = []
    for trial in result.trials:
        spent += trial.wall_seconds
        if not trial.was_run:
            continue
        seconds = None if trial.measurement is None else trial.measurement.step_seconds
        if seconds is not None and not trial.whole and not trial.is_outside:
            best = seconds if best is None else min(best, seconds)
        likely = None if trial.prediction is None else trial.prediction.likely_seconds
        rows.append(
            {
                "trial": trial.number,
                "spent": round(spent, 1),
                "configuration": describe(trial.config),
                "outcome": trial.outcome.meaning if seconds is None else _run_kind(trial),
                "time": None if seconds is None else scale.time(seconds),
                "predicted": None if likely is None else scale.time(likely),
                "best": None if best is None else scale.time(best),
            }
        )
    return rows


def _run_kind(trial: Trial) -> str:
    return "whole run" if trial.whole else "short trial"


def finalists(result: Result) -> Sequence[Ranked]:
    """The first that ran whole, and the reference; where none did, the first of the short trials."""
    ranked = result.ranking.ranked
    whole = [each for each in ranked if each.is_confirmed]
    chosen = (whole or list(ranked))[:MOST_FINALISTS]
    return [*chosen, *(each for each in ranked if each.is_reference and each not in chosen)]


def label(each: Ranked) -> str:
    """A finalist in few words."""
    return f"#{each.rank}  {each.trial.config.split}"
