"""Is a configuration the same training? Its loss and gradients on one effective batch, beside the plainest run's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autofit.job.situation import Situation
from autofit.knobs import KNOBS, knob
from autofit.knobs.attention import PLAINEST
from autofit.knobs.precision import FULL
from autofit.knobs.train_config import TrainConfig
from autofit.study.outcome import Outcome
from autofit.trial.protocol import StepResult

AGAINST_FP32 = 2.0
"""A precision may differ from fp32 by this many times what it may differ from itself."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One configuration beside what it is measured against; ``problem`` says why it is not the same training."""

    label: str
    against: str
    loss: float | None
    gradient_norm: float | None
    loss_difference: float | None
    gradient_difference: float | None
    loss_tolerance: float
    gradient_tolerance: float
    problem: str | None

    @property
    def same(self) -> bool:
        """True if it is the same training within the tolerances."""
        return self.problem is None


def plainest(config: TrainConfig, situation: Situation, precision: str) -> TrainConfig:
    """The reference of a configuration: one micro-batch, every knob at its reference but attention, which is eager."""
    split = {"micro_batch_size": situation.workload.samples_per_process, "accumulation_steps": 1}
    if not situation.model.counts_items:
        # Its loss is a mean over each micro-batch, so another split is another loss by the model's own definition.
        split = {"micro_batch_size": config.micro_batch_size, "accumulation_steps": config.accumulation_steps}
    values = {row.name: row.reference for row in KNOBS}
    values |= {**split, "precision": precision, "attention": PLAINEST}
    # The optimizer comes after the gradients and only has to be one that can be had.
    return TrainConfig({**values, "optimizer": config["optimizer"]})


def compare(
    label: str, found: StepResult, against: str, reference: StepResult, precision: str, slack: float = 1.0
) -> Comparison:
    """Relative differences against the tolerances of ``precision``, times ``slack``."""
    tolerances = knob("precision").choice(precision).tolerances
    loss_tolerance, gradient_tolerance = (slack * each for each in tolerances)
    loss: float | None = None
    gradient: float | None = None
    problem: str | None
    if found.loss is None or found.gradient_norm is None:
        problem = f"it ended as {found.outcome.value}: {found.reason}"
    elif reference.loss is None or reference.gradient_norm is None:
        problem = f"{against} ended as {reference.outcome.value}: {reference.reason}"
    else:
        loss = _apart(found.loss, reference.loss)
        gradient = _apart(found.gradient_norm, reference.gradient_norm)
        problem = _problem(found, reference, loss, gradient, loss_tolerance, gradient_tolerance)
    return Comparison(
        label=label,
        against=against,
        loss=found.loss,
        gradient_norm=found.gradient_norm,
        loss_difference=loss,
        gradient_difference=gradient,
        loss_tolerance=loss_tolerance,
        gradient_tolerance=gradient_tolerance,
        problem=problem,
    )


def _apart(found: float, reference: float) -> float:
    """The difference as a share of the reference; of nothing at all, every other number is infinitely far."""
    if reference == 0:
        return 0.0 if found == 0 else math.inf
    return abs(found / reference - 1)


def _problem(
    found: StepResult, reference: StepResult, loss: float, gradient: float, most_loss: float, most_gradient: float
) -> str | None:
    if loss > most_loss:
        return f"its loss is {found.loss:.6g} where the reference's is {reference.loss:.6g} ({loss:.1e} apart)"
    if gradient > most_gradient:
        return (
            f"its gradient norm is {found.gradient_norm:.6g} where the reference's is {reference.gradient_norm:.6g} "
            f"({gradient:.1e} apart)"
        )
    return None


def check_equivalence(
    configs: Sequence[tuple[str, TrainConfig]], situation: Situation, run: Callable[[TrainConfig], StepResult]
) -> list[Comparison]:
    """Each labelled configuration against the plainest in its precision, and each such precision against fp32 once."""
    comparisons = []
    references: dict[str, StepResult] = {}

    def reference(config: TrainConfig, precision: str) -> StepResult:
        if precision not in references:
            plain = plainest(config, situation, precision)
            found = run(plain)
            if found.outcome is Outcome.OOM:
                # The whole effective batch at once is too much here; the configuration's own split was not.
                found = run(
                    plain.replace(
                        micro_batch_size=config.micro_batch_size, accumulation_steps=config.accumulation_steps
                    )
                )
            references[precision] = found
        return references[precision]

    for label, config in configs:
        precision = str(config["precision"])
        if precision not in references:
            reference(config, precision)
            if precision != FULL and situation.workload.method != "qlora":
                full = reference(config, FULL)
                comparisons.append(
                    compare(f"{precision}, plainest", references[precision], FULL, full, precision, AGAINST_FP32)
                )
        comparisons.append(compare(label, run(config), f"{precision}, plainest", references[precision], precision))
    return comparisons
