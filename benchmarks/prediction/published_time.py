"""Step times that other people measured on GPUs and published, against the same steps traced without a GPU.

Each card's rates are its published peaks; which parts of them training reaches is one Efficiency for all cards but
those that 75 W hold back. It is fitted here, to all rows and to some of the sources, and judged on the others.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import transformers

from autofit.device.gpus import Gpu, find_gpu
from autofit.predict.step_time import OF_POWER_LIMITED_CARDS, OF_PUBLISHED_PEAKS, Efficiency, StepClock, Work
from autofit.predict.trace import StepTrace
from benchmarks.prediction.live_bytes import quiet
from benchmarks.prediction.published import ROWS, trace_of
from benchmarks.prediction.ranks import rank_correlation

FITTED = ("products", "attention", "traffic", "launch_seconds")
STEPS = (1.6, 1.25, 1.1, 1.04, 1.015)
"""Factors by which the search for an Efficiency goes up and down, coarse ones first."""
HALVES = {
    "fitted on A100, judged on L40S": ("NVIDIA A100-SXM4-80GB", "NVIDIA L40S"),
    "fitted on L40S, judged on A100": ("NVIDIA L40S", "NVIDIA A100-SXM4-80GB"),
    "fitted on TinyLlama and SmolLM2 (T4), judged on Qwen2.5": ("t4 other", "t4 Qwen"),
    "fitted on Qwen2.5 (T4), judged on TinyLlama and SmolLM2": ("t4 Qwen", "t4 other"),
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """A published step: its seconds, its traced work, and whether its attention is causal."""

    name: str
    group: str
    gpu: Gpu
    half: str
    seconds: float
    work: Work
    is_causal: bool

    def predicted(self, efficiency: Efficiency) -> float:
        """Seconds by an Efficiency."""
        clock = StepClock(self.gpu.rates, causal=self.is_causal)
        return clock.step(self.work, efficiency, 1)

    def shipped(self) -> Efficiency:
        """The Efficiency that a plan takes for the card."""
        return OF_POWER_LIMITED_CARDS if self.gpu.is_power_limited else OF_PUBLISHED_PEAKS

    def error(self, efficiency: Efficiency) -> float:
        """Logarithm of predicted over measured."""
        return math.log(self.predicted(efficiency) / self.seconds)


def run() -> dict[str, Any]:
    """Tables by card and by source; fits to halves of the rows, judged on the other half."""
    transformers.logging.set_verbosity_error()
    content = json.loads(ROWS.read_text())
    steps, left_out = [], 0
    for row in content["runs"]:
        seconds = seconds_of(row)
        if seconds is None or "kernels" in row["group"]:
            # Fused kernels of another package are not traced.
            left_out += 1
            continue
        with quiet():
            trace = trace_of(row, content["models"][row["model"]])
        steps.append(step_of(row, seconds, trace))
    figures: dict[str, Any] = {"left out": left_out, "cards": {}, "sources": {}, "fits": {}, "held out": {}}
    for name, members in _by(steps, "card").items():
        figures["cards"][name] = _of_card(members)
        print(f"{name:24} {figures['cards'][name]}")
    for name, members in _by(steps, "source").items():
        errors = [step.error(step.shipped()) for step in members]
        figures["sources"][name] = _errors(errors)
        print(f"{name:44} {figures['sources'][name]}")
    families = {"all but power-limited cards": False, "power-limited cards": True}
    for name, limited in families.items():
        fitted = fit([step for step in steps if step.gpu.is_power_limited is limited])
        figures["fits"][name] = {part: getattr(fitted, part) for part in FITTED}
        print(f"{name}: {figures['fits'][name]}")
    outside = []
    for name, (fitted_on, judged_on) in HALVES.items():
        fitted = fit([step for step in steps if step.half == fitted_on])
        judged = [step for step in steps if step.half == judged_on]
        errors = [step.error(fitted) for step in judged]
        spread = math.log(judged[0].shipped().spread)
        inside = sum(abs(error) <= spread for error in errors)
        outside += [abs(error) > spread for error in errors]
        figures["held out"][name] = {**_errors(errors), "inside the stated range": inside / len(errors)}
        print(f"{name}: {figures['held out'][name]}")
    figures["held out, inside the stated range"] = 1 - statistics.fmean(outside)
    print(f"held out, inside the stated range: {figures['held out, inside the stated range']:.0%}")
    return figures


def seconds_of(row: dict[str, Any]) -> float | None:
    """Measured seconds of a step; None where the source says nothing of time."""
    if row.get("step_seconds"):
        return float(row["step_seconds"])
    speed = row.get("tokens_per_second")
    return row["micro_batch"] * row["seq_len"] / float(speed) if speed else None


def step_of(row: dict[str, Any], seconds: float, trace: StepTrace) -> Step:
    """A row with its work."""
    gpu, operators = find_gpu(row["gpu"]), trace.operators
    half = gpu.name
    if gpu.is_power_limited:
        half = "t4 Qwen" if "Qwen" in row["model"] else "t4 other"
    return Step(
        name=row["id"],
        group=row["group"],
        gpu=gpu,
        half=half,
        seconds=seconds,
        work=Work.of(operators),
        is_causal="bert" not in row["model"],
    )


def fit(steps: Sequence[Step]) -> Efficiency:
    """The Efficiency with the smallest mean square of the errors' logarithms, found by going up and down each part."""

    def loss(efficiency: Efficiency) -> float:
        return statistics.fmean(step.error(efficiency) ** 2 for step in steps)

    best = Efficiency(products=0.5, attention=0.5, traffic=0.6, launch_seconds=20e-6)
    least = loss(best)
    for factor in STEPS:
        better = True
        while better:
            better = False
            for part in FITTED:
                for way in (factor, 1 / factor):
                    value = getattr(best, part) * way
                    tried = replace(best, **{part: value if part == "launch_seconds" else min(1.0, value)})
                    if (found := loss(tried)) < least * (1 - 1e-6):
                        best, least, better = tried, found, True
    return best


def _by(steps: Sequence[Step], what: str) -> dict[str, list[Step]]:
    groups: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        groups[step.gpu.name if what == "card" else f"{step.gpu.key} {step.group}"].append(step)
    return dict(sorted(groups.items()))


def _of_card(steps: Sequence[Step]) -> dict[str, Any]:
    shipped = steps[0].shipped()
    errors = [step.error(shipped) for step in steps]
    factor = statistics.median(errors)
    inside = sum(abs(error) <= math.log(shipped.spread) for error in errors)
    return {
        **_errors(errors),
        "rank_correlation": rank_correlation(
            [step.predicted(shipped) for step in steps], [step.seconds for step in steps]
        ),
        "factor": math.exp(factor),
        "after_one_factor": _errors([error - factor for error in errors]),
        "inside_the_stated_range": inside / len(steps),
    }


def _errors(logarithms: Sequence[float]) -> dict[str, Any]:
    errors = np.expm1(np.array(logarithms))
    return {
        "rows": len(errors),
        "median_absolute_error": float(np.median(np.abs(errors))),
        "most_too_fast": float(min(0.0, errors.min())),
        "most_too_slow": float(max(0.0, errors.max())),
    }
