"""The answer when nothing fits: the smallest configuration's need, measured where that can be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from autofit.driver.history import History
from autofit.driver.starts import leanest_configs
from autofit.job.situation import Situation
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace
from autofit.knobs.static_bytes import static_bytes
from autofit.knobs.train_config import TrainConfig
from autofit.study.evidence import NO_EVIDENCE
from autofit.study.outcome import Outcome
from autofit.study.trial import Trial
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import ProcessRunner
from autofit.units import format_bytes


class RunnerSource(Protocol):
    """Makes a runner for a situation."""

    def runner(self, situation: Situation) -> ProcessRunner: ...


def least_need(
    source: RunnerSource,
    situation: Situation,
    space: SearchSpace,
    trials: Sequence[Trial],
    plan: MeasuringPlan,
    *,
    stopped: str,
) -> str:
    """The sentences for a search that found nothing: why, what the smallest needs, what would make it fit.

    Under an emulated limit the leanest configuration is run once with the whole device, so the figure is
    measured; otherwise it is the sum of weights, gradients and optimizer state, a lower bound.
    """
    tried = [trial for trial in trials if trial.config in space]
    other_cause = _other_cause(tried, stopped)
    if other_cause is not None:
        return other_cause
    lean = leanest_configs(space)[0]
    skipped = {trial.config for trial in tried if trial.outcome is Outcome.SKIPPED}
    if History(space, tried, ruled_out=skipped).outcome(lean) is None:
        return f"Nothing that was tried fits, and smaller configurations are left: {stopped}; give it more."
    need = None
    if situation.memory_is_emulated:
        need = _measured_need(source, situation, lean, plan)
    limit = format_bytes(situation.limits.usable_bytes)
    shorter = "a shorter --seq-len" if situation.program is None else "shorter samples"
    opening = f"Nothing fits into {limit} (the limit less headroom)."
    if need is not None:
        # Rounded up to what would pass the same headroom.
        wanted = situation.limits.memory_for(need)
        return (
            f"{opening} The smallest configuration (micro-batch {lean.micro_batch_size}) needs {format_bytes(need)}, "
            f"measured without the limit; it fits from --memory-limit {-(-int(wanted) // 2**20)}MiB on, "
            f"or with {shorter} or a smaller model."
        )
    alone = format_bytes(static_bytes(situation, lean))
    if situation.workload.processes > 1:
        alone += " in each process"
    return (
        f"{opening} Weights, gradients and optimizer state alone take {alone} "
        f"(computed, not measured); try {shorter}, --numerics aggressive, a smaller model or a larger device."
    )


def _other_cause(tried: Sequence[Trial], stopped: str) -> str | None:
    """The sentences where it was not the memory of short trials that left nothing; None where it was."""
    failed_whole = [
        trial for trial in tried if trial.whole and trial.measurement is None and trial.outcome not in NO_EVIDENCE
    ]
    if any(trial.measurement is not None for trial in tried) and failed_whole:
        broken = failed_whole[0]
        return (
            f"No configuration got through its whole run, though short trials did; the first that failed it ended as "
            f"{broken.outcome.value}: {broken.reason} (log: {broken.log_path}). The search stopped "
            f"because {stopped}."
        )
    if tried and all(trial.outcome is Outcome.INTERRUPTED for trial in tried):
        return f"Nothing was measured: {tried[-1].reason}; raise --budget."
    if not any(trial.outcome in (Outcome.OOM, Outcome.SKIPPED) for trial in tried):
        first = tried[0] if tried else None
        if first is None:
            return f"Nothing was tried: the search stopped because {stopped}. Raise --budget or --max-trials."
        how = f"{first.outcome.value}: {first.reason} (log: {first.log_path})"
        return f"No configuration could be run. The first ended as {how}"
    return None


def _measured_need(source: RunnerSource, situation: Situation, lean: TrainConfig, plan: MeasuringPlan) -> int | None:
    runner = source.runner(situation.without_limit())
    result = runner.run(recipe_for(lean, situation), plan, "smallest-need")
    return None if result.measurement is None else result.measurement.memory.needed
