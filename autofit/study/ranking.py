"""Ranking: which configuration is fastest, by how much, on what evidence, and which one is recommended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autofit.knobs import KNOBS, numerics_of
from autofit.knobs.baseline import DEFAULT_MICRO_BATCH
from autofit.knobs.numerics import Numerics
from autofit.knobs.train_config import TrainConfig
from autofit.study.comparison import Comparison
from autofit.study.evidence import Evidence, measurement_of
from autofit.study.measurement import Measurement
from autofit.study.trial import Trial

LARGEST_REFERENCE_MICRO_BATCH = DEFAULT_MICRO_BATCH
"""Of what TrainingArguments' defaults stand for: theirs, or the largest below it that fits."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A measured configuration in its place.

    ``against_reference`` is the reference's step over its own (how many times as fast it is), None where there is no
    reference.
    """

    rank: int
    trial: Trial
    numerics: tuple[Numerics, ...]
    against_reference: Comparison | None
    is_reference: bool
    tied_with_first: bool

    @property
    def measurement(self) -> Measurement:
        """The trial's measurement."""
        return measurement_of(self.trial)

    @property
    def speedup(self) -> float | None:
        """Speed over that of the reference."""
        return None if self.against_reference is None else self.against_reference.ratio

    @property
    def is_confirmed(self) -> bool:
        """True if it got through a whole run, and not only through a short trial."""
        return self.trial.whole


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The measured configurations, fastest first, and the others with their reasons.

    The recommendation is the fastest that ran whole, where any did. What only a short trial says is faster comes
    before it in the order, and is not recommended; ``evidence`` compares any two. ``chosen`` is one that somebody takes
    instead.
    """

    ranked: tuple[Ranked, ...]
    failed: tuple[Trial, ...]
    reference: Trial | None
    evidence: Evidence
    chosen: Ranked | None = None

    @property
    def best(self) -> Ranked | None:
        """The recommendation: the first that is in the space that was searched, and confirmed where any is.

        What somebody chose is in its place.
        """
        if self.chosen is not None:
            return self.chosen
        inside = [each for each in self.ranked if not each.trial.is_outside]
        return next((each for each in inside if each.is_confirmed), next(iter(inside), None))


def rank(trials: Sequence[Trial]) -> Ranking:
    """Rank the evidence per configuration; ties inside the noise go to the more exact, then the simpler."""
    evidence = Evidence(trials)
    measured, tied = _in_order(evidence)
    inside = [trial for trial in measured if not trial.is_outside]
    reference = _newest_baseline(measured) or find_reference(inside, evidence) or find_reference(measured, evidence)
    ranked = tuple(
        Ranked(
            rank=number,
            trial=trial,
            numerics=numerics_of(trial.values),
            against_reference=None if reference is None else evidence.against(reference, trial),
            is_reference=trial is reference,
            tied_with_first=trial in tied,
        )
        for number, trial in enumerate(measured, start=1)
    )
    failed = tuple(trial for trial in evidence.by_config.values() if trial.measurement is None)
    return Ranking(ranked=ranked, failed=failed, reference=reference, evidence=evidence)


def _in_order(evidence: Evidence) -> tuple[list[Trial], list[Trial]]:
    """The measured trials, fastest first, and those of them that are tied with the fastest."""
    measured = sorted(evidence.measured, key=evidence.likely_seconds)
    inside = [trial for trial in measured if not trial.is_outside]
    fastest = next((trial for trial in inside if trial.whole), next(iter(inside), None))
    if fastest is None:
        return measured, []
    # What has not run whole cannot take the place of what has.
    peers = [trial for trial in inside if trial.whole == fastest.whole]
    tied = [trial for trial in peers if evidence.is_tied(trial, fastest)]
    tied.sort(key=lambda trial: (_looseness(trial.config), _distance_from_reference(trial.config)))
    before = [trial for trial in measured[: measured.index(fastest)] if trial not in tied]
    behind = [trial for trial in measured if trial not in tied and trial not in before]
    return [*before, *tied, *behind], tied


def _newest_baseline(measured: Sequence[Trial]) -> Trial | None:
    return max((trial for trial in measured if trial.is_baseline), key=lambda trial: trial.number, default=None)


def find_reference(measured: Sequence[Trial], evidence: Evidence) -> Trial | None:
    """Trial of TrainingArguments' defaults: the largest micro-batch up to theirs that fits, in the fastest precision.

    None where no such configuration was measured (its knobs were fixed to other values, say).
    """
    largest: dict[object, Trial] = {}
    for trial in measured:
        config = trial.config
        plain = _distance_from_reference(config) == 0
        if not plain or config.micro_batch_size > LARGEST_REFERENCE_MICRO_BATCH:
            continue
        known = largest.get(config["precision"])
        if known is None or config.micro_batch_size > known.config.micro_batch_size:
            largest[config["precision"]] = trial
    return min(largest.values(), key=evidence.likely_seconds, default=None)


def _looseness(config: TrainConfig) -> int:
    return sum(numerics.level for numerics in numerics_of(dict(config)))


def _distance_from_reference(config: TrainConfig) -> int:
    """Number of knobs that differ from their reference; precision, which every reference has to choose, not counted."""
    return sum(config[row.name] != row.reference for row in KNOBS if row.name != "precision")
